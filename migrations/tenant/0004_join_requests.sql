-- JOIN-1. People who ask to become members. Tokens are in the mails and nowhere else; here are their hashes.
create table join_requests (
    id                   uuid primary key,
    email                text        not null,             -- as it was written
    email_key            text        not null,             -- the same for every way to write the address
    first_name           text        not null,
    last_name            text        not null,
    form                 jsonb       not null,             -- the fields that the organization's settings allow
    schema_version       integer     not null,             -- of the form that was filled in
    language             text        not null,
    status               text        not null default 'pending_confirmation',
    token_hash           bytea,                            -- SHA-256; gone once it was used
    token_number         integer     not null default 1,   -- counts the tokens; each has one mail
    token_expires_at     timestamptz,
    window_at            timestamptz not null,             -- when the hour began in which tokens are counted
    window_tokens        integer     not null default 1,
    used_token_hash      bytea,                            -- opens nothing; lets the page say that the link was used
    confirmation_sent_at timestamptz,                      -- when the mail server took the present token's mail
    send_error           text,                             -- why there will be no mail with the present token
    submitted_at         timestamptz,
    decided_at           timestamptz,
    decided_by           text,                             -- 'user:<id>', 'api_key:<id>'
    user_id              uuid,                             -- the member that it became
    password_hash        bytea,                            -- SHA-256 of the token with which a new member chooses a password
    password_expires_at  timestamptz,
    decision_sent_at     timestamptz,
    created_at           timestamptz not null,
    updated_at           timestamptz not null,
    constraint join_requests_token_hash_key unique (token_hash),
    constraint join_requests_used_token_hash_key unique (used_token_hash),
    constraint join_requests_password_hash_key unique (password_hash),
    constraint join_requests_status_check check (status in ('pending_confirmation', 'submitted', 'approved', 'rejected')),
    constraint join_requests_language_check check (language in ('sv', 'en')),
    constraint join_requests_schema_version_check check (schema_version >= 1),
    constraint join_requests_token_hash_check check ((status = 'pending_confirmation') = (token_hash is not null)),
    constraint join_requests_token_expires_at_check check ((token_hash is null) = (token_expires_at is null)),
    constraint join_requests_submitted_at_check check ((status = 'pending_confirmation') = (submitted_at is null)),
    constraint join_requests_decided_at_check check ((status in ('approved', 'rejected')) = (decided_at is not null)),
    constraint join_requests_decided_by_check check ((decided_at is null) = (decided_by is null)),
    constraint join_requests_user_id_check check ((status = 'approved') = (user_id is not null)),
    constraint join_requests_password_hash_check check (password_hash is null or status = 'approved')
);
-- One request per address that is still to be decided.
create unique index join_requests_open_key on join_requests (email_key) where status in ('pending_confirmation', 'submitted');
create index join_requests_status_idx on join_requests (status, id);
-- The daily sweep walks this one.
create index join_requests_unconfirmed_idx on join_requests (created_at) where status = 'pending_confirmation';
