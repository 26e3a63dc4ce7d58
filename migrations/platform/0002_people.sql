-- People: one row per person in the whole installation, and what they are in which organization (AUTH-1, AUTH-2, AUTH-5, TEN-4).
create table public.users (
    id            uuid primary key,
    email         text        not null,                 -- as mail is sent to it
    email_key     text        not null,                 -- domain::EmailAddress::key: one per mailbox, whatever the case
    name          text        not null,
    language      text        not null default 'sv',
    password_hash text,                                 -- Argon2id in PHC form; null: nobody signs in with a password
    confirmed_at  timestamptz,                          -- when the address was proved to be the person's
    created_at    timestamptz not null,
    updated_at    timestamptz not null,
    constraint users_email_key_key unique (email_key),
    constraint users_language_check check (language in ('sv', 'en'))
);

-- A person has one role per organization. Who has left keeps the row, with its end.
create table public.organization_members (
    organization_id uuid        not null references public.organizations (id) on delete cascade,
    user_id         uuid        not null references public.users (id) on delete cascade,
    role            text        not null,
    company_id      uuid,                               -- of the organization's own companies; a customer has one, nobody else
    created_at      timestamptz not null,
    updated_at      timestamptz not null,
    ended_at        timestamptz,
    constraint organization_members_pkey primary key (organization_id, user_id),
    constraint organization_members_role_check check (role in ('admin', 'developer', 'user', 'customer')),
    constraint organization_members_company_id_check check ((role = 'customer') = (company_id is not null))
);
create index organization_members_user_id_idx on public.organization_members (user_id) where ended_at is null;

-- One sign-in: the family of refresh tokens that came of it. Ended, none of them opens anything any more.
create table public.sessions (
    id              uuid primary key,
    user_id         uuid        not null references public.users (id) on delete cascade,
    organization_id uuid        not null references public.organizations (id) on delete cascade,
    created_at      timestamptz not null,
    ended_at        timestamptz,
    end_reason      text,
    constraint sessions_end_reason_check
        check (end_reason in ('signed_out', 'token_reused', 'password_changed', 'member_removed')),
    constraint sessions_ended_at_check check ((ended_at is null) = (end_reason is null))
);
create index sessions_user_id_idx on public.sessions (user_id) where ended_at is null;

create table public.refresh_tokens (
    token_hash bytea primary key,                       -- SHA-256 of the token; the token itself is with its owner
    session_id uuid        not null references public.sessions (id) on delete cascade,
    created_at timestamptz not null,
    expires_at timestamptz not null,
    used_at    timestamptz                              -- when it was exchanged for the next one
);
create index refresh_tokens_session_id_idx on public.refresh_tokens (session_id);
create index refresh_tokens_expires_at_idx on public.refresh_tokens (expires_at);

-- Tries to sign in, by address and network, whether or not the address is anybody's.
create table public.sign_in_tries (
    address_hash bytea       not null,                  -- SHA-256 of the address's key
    network      text        not null,                  -- an IPv4 address or the /64 of an IPv6 address
    failures     integer     not null,                  -- in a row, the try under way counted as one
    tried_at     timestamptz not null,
    succeeded_at timestamptz,                           -- the owner has been here
    constraint sign_in_tries_pkey primary key (address_hash, network)
);
create index sign_in_tries_tried_at_idx on public.sign_in_tries (tried_at);

-- Tokens of language models, by the organization's own calendar.
create table public.token_usage (
    organization_id uuid   not null references public.organizations (id) on delete cascade,
    month           date   not null,                    -- its first day
    kind            text   not null,                    -- what they were used for, such as conversations.name
    tokens          bigint not null,
    constraint token_usage_pkey primary key (organization_id, month, kind),
    constraint token_usage_month_check check (extract(day from month) = 1),
    constraint token_usage_tokens_check check (tokens >= 0)
);
