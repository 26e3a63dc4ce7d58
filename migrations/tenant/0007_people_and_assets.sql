-- ASSET-1 to ASSET-4. Who works here, where, and with what. `integration_id` and `external_id` name a record's source; without them
-- it was written by hand. What a source said last is known by its keyed fingerprint, `source_print`.
create table locations (
    id         uuid primary key,
    name       text        not null,
    kind       text        not null,
    address    bytea,                       -- sealed text
    phone      bytea,                       -- sealed text
    active     boolean     not null default true,
    created_at timestamptz not null,
    updated_at timestamptz not null,
    constraint locations_name_check check (char_length(name) between 1 and 200),
    constraint locations_kind_check check (kind in ('office', 'warehouse', 'employee_home', 'remote'))
);
create unique index locations_name_key on locations (lower(name));

create table employees (
    id                     uuid primary key,
    work_email             text,
    work_email_key         text generated always as (lower(work_email)) stored,
    first_name             bytea       not null, -- sealed text, as are those down to national_id
    last_name              bytea       not null,
    phone                  bytea,
    home_address           bytea,
    social_security_number bytea,
    national_id            bytea,
    date_of_birth          bytea,                -- sealed JSON
    custom                 bytea,                -- sealed JSON: nobody knows what an organization keeps there
    title                  text,
    department             text,
    manager_id             uuid,
    manager_external_id    text,                 -- the manager's id at the source, also of one who is not here yet
    location_id            uuid,
    status                 text        not null,
    hire_date              date,
    termination_date       date,
    integration_id         uuid,
    external_id            text,
    source_print           bytea,
    created_at             timestamptz not null,
    updated_at             timestamptz not null,
    -- Checked at the end of a statement, not at each row: two people of one page may have swapped their addresses.
    constraint employees_work_email_key unique (work_email_key) deferrable initially immediate,
    constraint employees_source_key unique (integration_id, external_id),
    constraint employees_source_check check (integration_id is null or external_id is not null),
    constraint employees_status_check check (status in ('active', 'on_leave', 'terminated')),
    constraint employees_manager_id_fkey foreign key (manager_id) references employees (id),
    constraint employees_manager_check check (manager_id is distinct from id),
    constraint employees_location_id_fkey foreign key (location_id) references locations (id)
);
create index employees_work_email_prefix_idx on employees (work_email_key text_pattern_ops);
create index employees_external_id_idx on employees (external_id) where external_id is not null;
create index employees_status_idx on employees (status, id);
create index employees_location_id_idx on employees (location_id, id) where location_id is not null;
create index employees_manager_id_idx on employees (manager_id, id) where manager_id is not null;

create table assets (
    id                 uuid primary key,
    tag                text        not null,     -- upper case
    name               text        not null,
    category           text,                     -- lower case
    make               text,
    model              text,
    serial_number      bytea,                    -- sealed text
    serial_index       bytea,                    -- blind index of the normalised serial number
    status             text        not null,
    condition          text        not null default 'good',
    employee_id        uuid,                     -- who holds it
    location_id        uuid,
    currency           text        not null default 'SEK',
    cost               bytea,                    -- sealed decimal
    residual_value     bytea,                    -- sealed decimal
    book_value         bytea,                    -- sealed decimal: as the finance system has it; else it is computed
    purchase_order     bytea,                    -- sealed text
    invoice_number     bytea,                    -- sealed text
    supplier           text,
    purchased_on       date,
    warranty_until     date,
    depreciates_from   date,
    useful_life_months integer,
    custom             jsonb       not null default '{}',
    labels             text[]      not null default '{}',
    integration_id     uuid,
    external_id        text,
    source_print       bytea,
    created_at         timestamptz not null,
    updated_at         timestamptz not null,
    constraint assets_tag_key unique (tag),
    constraint assets_tag_check check (tag = upper(tag) and char_length(tag) between 1 and 64),
    constraint assets_name_check check (char_length(name) between 1 and 200),
    constraint assets_status_check
        check (status in ('on_order', 'in_stock', 'assigned', 'in_repair', 'retired', 'lost', 'stolen')),
    constraint assets_condition_check check (condition in ('new', 'good', 'fair', 'poor', 'broken')),
    -- Whoever holds it, it is assigned to, and nobody else holds anything.
    constraint assets_holder_check check ((status = 'assigned') = (employee_id is not null)),
    constraint assets_currency_check check (currency ~ '^[A-Z]{3}$'),
    constraint assets_useful_life_months_check check (useful_life_months between 1 and 1200),
    constraint assets_source_key unique (integration_id, external_id),
    constraint assets_source_check check (integration_id is null or external_id is not null),
    constraint assets_employee_id_fkey foreign key (employee_id) references employees (id),
    constraint assets_location_id_fkey foreign key (location_id) references locations (id)
);
create index assets_tag_prefix_idx on assets (tag text_pattern_ops);
create index assets_serial_index_idx on assets (serial_index, id) where serial_index is not null;
create index assets_employee_id_idx on assets (employee_id, id) where employee_id is not null;
create index assets_location_id_idx on assets (location_id, id) where location_id is not null;
create index assets_status_idx on assets (status, id);
create index assets_category_idx on assets (category, id) where category is not null;

-- The last number that a tag was made of: A-00001.
create table asset_tag_numbers (
    one  boolean primary key default true,
    last bigint  not null default 0,
    constraint asset_tag_numbers_one_check check (one)
);
insert into asset_tag_numbers default values;

-- What happened to an asset. Rows are added and never changed: the organization's role may not (tenant/migrate.rs), and nobody else
-- can without taking the trigger away.
create table asset_transactions (
    id               uuid primary key,
    asset_id         uuid        not null,
    kind             text        not null,
    from_status      text,                       -- null: the asset is new
    to_status        text        not null,
    from_employee_id uuid,
    to_employee_id   uuid,
    from_location_id uuid,
    to_location_id   uuid,
    condition        text        not null,       -- as it was afterwards
    actor            text        not null,       -- as in events
    ip               text,
    user_agent       text,
    amount           bytea,                      -- sealed decimal, in the asset's currency
    note             bytea,                      -- sealed text
    created_at       timestamptz not null,
    constraint asset_transactions_asset_id_fkey foreign key (asset_id) references assets (id),
    constraint asset_transactions_from_employee_id_fkey foreign key (from_employee_id) references employees (id),
    constraint asset_transactions_to_employee_id_fkey foreign key (to_employee_id) references employees (id),
    constraint asset_transactions_kind_check
        check (kind in ('created', 'assigned', 'returned', 'transferred', 'status_changed'))
);
create index asset_transactions_asset_id_idx on asset_transactions (asset_id, id);
create index asset_transactions_from_employee_id_idx on asset_transactions (from_employee_id, id)
    where from_employee_id is not null;
create index asset_transactions_to_employee_id_idx on asset_transactions (to_employee_id, id)
    where to_employee_id is not null;

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% is append-only', tg_table_name using errcode = 'restrict_violation';
end
$$;
create trigger asset_transactions_append_only before update or delete on asset_transactions
    for each row execute function refuse_change();
create trigger asset_transactions_no_truncate before truncate on asset_transactions
    for each statement execute function refuse_change();
