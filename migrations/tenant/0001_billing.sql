-- One organization's schema: applied with search_path set to it, so names are unqualified. Built-in types and
-- text + CHECK only: prepared statements are shared between tenants, and a per-schema type would break them.
create table companies (
    id           uuid primary key,
    name         text        not null,
    email        text        not null,
    org_number   text        not null,        -- ten digits
    language     text        not null default 'sv',
    phone        bytea,                       -- sealed text
    phone_index  bytea,                       -- blind index of the normalised phone
    contact      bytea,                       -- sealed JSON: domain::company::Contact
    created_at   timestamptz not null,
    updated_at   timestamptz not null,
    constraint companies_org_number_key unique (org_number),
    constraint companies_language_check check (language in ('sv', 'en')),
    constraint companies_org_number_check check (org_number ~ '^[0-9]{10}$')
);
create index companies_phone_index_idx on companies (phone_index) where phone_index is not null;
create index companies_email_idx on companies (lower(email));

create table invoices (
    id                    uuid primary key,
    number                text          not null,
    company_id            uuid          not null,
    project_id            uuid,
    contract_id           uuid,
    status                text          not null,
    currency              text          not null default 'SEK',
    issue_date            date          not null,
    due_date              date          not null,
    payment_terms_days    integer       not null default 30,
    notes                 text,
    subtotal              numeric(16, 2) not null,
    tax                   numeric(16, 2) not null,
    total                 numeric(16, 2) not null,
    paid_on               date,
    reminder_stage        integer       not null default 0,   -- reminders sent so far
    last_reminder_sent_at timestamptz,
    reminder_failed_at    timestamptz,
    reminder_error        text,
    dunning_ended_at      timestamptz,                        -- the last stage went unanswered; an admin was told
    created_at            timestamptz   not null,
    updated_at            timestamptz   not null,
    constraint invoices_number_key unique (number),
    constraint invoices_company_id_fkey foreign key (company_id) references companies (id),
    constraint invoices_status_check check (status in ('draft', 'sent', 'unpaid', 'paid', 'overdue', 'cancelled')),
    constraint invoices_currency_check check (currency ~ '^[A-Z]{3}$'),
    constraint invoices_due_date_check check (due_date >= issue_date),
    constraint invoices_paid_on_check check ((status = 'paid') = (paid_on is not null))
);
create index invoices_company_id_idx on invoices (company_id, id);
create index invoices_status_idx on invoices (status, id);
-- The sweep walks this one: only what could still owe a reminder.
create index invoices_open_due_date_idx on invoices (due_date, id)
    where status in ('sent', 'unpaid', 'overdue') and dunning_ended_at is null;

create table invoice_items (
    invoice_id  uuid           not null references invoices (id) on delete cascade,
    position    integer        not null,
    description text           not null,
    quantity    numeric(16, 4) not null,
    unit_price  numeric(16, 4) not null,
    tax_rate    numeric(6, 4)  not null default 0.25,
    net         numeric(16, 2) not null,
    tax         numeric(16, 2) not null,
    primary key (invoice_id, position)
);

-- MAIL-2. One row per message that shall reach somebody once; `purpose` is its key, `message_id` derives from it.
create table deliveries (
    id           uuid primary key,
    purpose      text        not null,        -- 'reminder:<invoice>:<stage>', 'escalation:<invoice>:<admin>'
    message_id   text        not null,
    recipient    text        not null,
    state        text        not null default 'pending',
    claimed_by   uuid,                        -- the job that is sending it now
    claimed_until timestamptz,
    attempts     integer     not null default 0,
    unknown_outcomes integer not null default 0, -- hand-overs that the server may have accepted without saying so
    response     text,                        -- the mail server's last words
    created_at   timestamptz not null,
    sent_at      timestamptz,
    constraint deliveries_purpose_key unique (purpose),
    constraint deliveries_message_id_key unique (message_id),
    constraint deliveries_state_check check (state in ('pending', 'sending', 'sent', 'rejected')),
    constraint deliveries_sent_at_check check ((state = 'sent') = (sent_at is not null))
);

-- A dunning stage of an invoice, claimed before its mail leaves (BILL-6).
create table reminders (
    invoice_id  uuid        not null references invoices (id) on delete cascade,
    stage       integer     not null,
    delivery_id uuid        not null references deliveries (id),
    job_id      uuid        not null,
    claimed_at  timestamptz not null,
    sent_at     timestamptz,
    primary key (invoice_id, stage),
    constraint reminders_stage_check check (stage >= 1)
);

-- EVT-1. The activity log, appended in the transaction of the change it tells of.
create table events (
    id         uuid primary key,              -- UUIDv7: also the order
    topic      text        not null,          -- 'invoice:<id>'
    kind       text        not null,          -- 'invoice.reminder_sent'
    payload    jsonb       not null default '{}',
    actor      text        not null,          -- 'job:<id>', 'api_key:<id>', 'operator'
    created_at timestamptz not null
);
create index events_topic_idx on events (topic, id);
