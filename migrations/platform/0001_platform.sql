-- The control plane: who the organizations are and which keys open them. Their own rows live in a schema each (../tenant).
create table public.organizations (
    id             uuid primary key,
    slug           text        not null,
    name           text        not null,
    tier           text        not null default 'free',
    billing_status text        not null default 'trial',
    time_zone      text        not null default 'Europe/Stockholm',
    locale         text        not null default 'sv',
    feature_flags  jsonb       not null default '{}',
    settings       jsonb       not null default '{}',   -- domain::organization::Settings
    trial_ends_at  timestamptz,
    schema_name    text        not null,                -- org_<slug>, never renamed
    role_name      text        not null,                -- may reach that schema and the enqueue door, nothing else
    created_at     timestamptz not null,
    updated_at     timestamptz not null,
    constraint organizations_slug_key unique (slug),
    constraint organizations_schema_name_key unique (schema_name),
    constraint organizations_role_name_key unique (role_name),
    constraint organizations_slug_check check (slug ~ '^[a-z][a-z0-9-]{1,39}$'),
    constraint organizations_tier_check check (tier in ('free', 'pro', 'enterprise')),
    constraint organizations_billing_status_check check (billing_status in ('active', 'suspended', 'trial', 'canceled')),
    constraint organizations_locale_check check (locale in ('sv', 'en'))
);

create table public.api_keys (
    id              uuid primary key,
    organization_id uuid        not null references public.organizations (id) on delete cascade,
    name            text        not null,
    key_hash        bytea       not null,               -- SHA-256 of the key; the key itself is shown once
    prefix          text        not null,               -- its first characters, for people to tell keys apart
    scopes          text[]      not null,
    created_at      timestamptz not null,
    last_used_at    timestamptz,
    revoked_at      timestamptz,
    constraint api_keys_key_hash_key unique (key_hash)
);
create index api_keys_organization_id_idx on public.api_keys (organization_id, id);

-- API-3. Written in the transaction of the work; `status` is null only inside it.
create table public.idempotency_keys (
    organization_id uuid        not null references public.organizations (id) on delete cascade,
    key             text        not null,
    fingerprint     bytea       not null,               -- SHA-256 of method, path and body
    status          smallint,
    location        text,
    content_type    text,
    body            bytea,
    created_at      timestamptz not null default now(),
    primary key (organization_id, key)
);
create index idempotency_keys_created_at_idx on public.idempotency_keys (created_at);

-- The enqueue door stamps a tenant's role with its own organization. `current_setting('role')` is the role that the
-- transaction set; inside a SECURITY DEFINER function `current_user` is the owner already. A role that is neither the owner
-- nor an organization's gets a tenant that nobody has, so the door stays shut.
create or replace function queue.caller_tenant() returns text
language sql stable security definer set search_path = pg_catalog, pg_temp as $$
    select case when current_setting('role') in ('none', current_user) then null
                else coalesce((select o.slug from public.organizations o where o.role_name = current_setting('role')), '')
           end
$$;

-- PostgreSQL 14 still lets everybody create tables in schema public.
revoke create on schema public from public;
