-- AUTH-5. The way back in for who has forgotten their password: one link per person, of which only the hash is kept.
create table public.password_resets (
    user_id         uuid primary key references public.users (id) on delete cascade,
    organization_id uuid        not null references public.organizations (id) on delete cascade,  -- in whose name it is mailed
    request_id      uuid        not null,                -- the job that made the token; its mail is known by it
    token_hash      bytea       not null,                -- SHA-256 of the token; the token itself is in the mail
    expires_at      timestamptz not null,
    used_at         timestamptz,
    window_at       timestamptz not null,                -- when the hour began in which tokens are counted
    window_tokens   integer     not null default 1,
    constraint password_resets_token_hash_key unique (token_hash)
);
