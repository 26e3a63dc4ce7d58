-- AUTH-1. Which organization made an account. Until the address is proved to be the person's, whoever typed it may know the password:
-- sign-in opens that organization and no other.
alter table public.users
    add column made_in uuid,                            -- null: made by the operator, or by the person, who have proved the address
    add constraint users_made_in_fkey foreign key (made_in) references public.organizations (id) on delete set null;
create index users_made_in_idx on public.users (made_in) where made_in is not null;

-- The account was made with its first membership; who was taken out since is not let in by it.
update public.users u
set made_in = (select m.organization_id from public.organization_members m
               where m.user_id = u.id and m.ended_at is null order by m.created_at, m.organization_id limit 1)
where u.confirmed_at is null;

update public.sessions s set ended_at = now(), end_reason = 'password_changed'
from public.users u
where u.id = s.user_id and u.confirmed_at is null and s.ended_at is null and s.organization_id is distinct from u.made_in;
