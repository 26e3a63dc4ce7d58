-- WORK-1. People's rooms within the organization. Users live in the control plane, so `user_id` and `owner_id` are plain columns.
create table workspaces (
    id         uuid primary key,
    name       text        not null,
    owner_id   uuid        not null,
    personal   boolean     not null default false, -- everybody's own: one each, stays, has no other members
    created_at timestamptz not null,
    updated_at timestamptz not null,
    deleted_at timestamptz,                        -- from then on it does not exist for anybody
    constraint workspaces_name_check check (char_length(name) between 1 and 100),
    constraint workspaces_deleted_at_check check (not (personal and deleted_at is not null))
);
create unique index workspaces_personal_key on workspaces (owner_id) where personal;

-- WORK-2. The owner is a member like the others, and stays one for as long as there is the workspace.
create table workspace_members (
    workspace_id uuid        not null references workspaces (id) on delete cascade,
    user_id      uuid        not null,
    joined_at    timestamptz not null,
    chosen_at    timestamptz,                      -- the last switch to it; the latest is the person's current workspace
    primary key (workspace_id, user_id)
);
create index workspace_members_user_id_idx on workspace_members (user_id, workspace_id);

-- WORK-3. The token is in the mail and nowhere else; here is its hash. A renewed invitation has a new token, and the old one opens nothing.
create table invitations (
    id           uuid primary key,
    workspace_id uuid        not null references workspaces (id) on delete cascade,
    email        text        not null,             -- as it was written
    email_key    text        not null,             -- the same for every way to write the address
    language     text        not null,
    invited_by   uuid        not null,
    state        text        not null default 'open',
    token_hash   bytea       not null,             -- SHA-256
    token_number integer     not null default 1,   -- counts the tokens; each has one mail
    token_at     timestamptz not null,             -- when the present token was made
    expires_at   timestamptz not null,
    sent_at      timestamptz,                      -- when the mail server took the present token's mail
    send_error   text,                             -- why there will be no mail with the present token
    accepted_by  uuid,
    created_at   timestamptz not null,
    ended_at     timestamptz,                      -- accepted, revoked or expired
    constraint invitations_token_hash_key unique (token_hash),
    constraint invitations_token_hash_check check (octet_length(token_hash) = 32),
    constraint invitations_language_check check (language in ('sv', 'en')),
    constraint invitations_state_check check (state in ('open', 'accepted', 'revoked', 'expired')),
    constraint invitations_accepted_by_check check ((state = 'accepted') = (accepted_by is not null)),
    constraint invitations_ended_at_check check ((state = 'open') = (ended_at is null))
);
-- One open invitation per address and workspace.
create unique index invitations_open_key on invitations (workspace_id, email_key) where state = 'open';
create index invitations_workspace_id_idx on invitations (workspace_id, id);
create index invitations_email_key_idx on invitations (email_key, token_at);
-- The daily sweep walks this one.
create index invitations_open_expires_at_idx on invitations (expires_at) where state = 'open';
