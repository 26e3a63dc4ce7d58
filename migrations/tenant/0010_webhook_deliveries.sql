-- SYNC-12. What third parties sent by themselves, proven by its signature: each delivery once, however often it comes.
create table webhook_deliveries (
    id             uuid primary key,
    integration_id uuid        not null,
    external_id    text        not null,                    -- the sender's; the same when it comes again
    happened       text        not null,
    payload        jsonb       not null,                    -- what changed, without records
    state          text        not null,
    outcome        text,                                    -- what came of it, for a person
    received_at    timestamptz not null,
    handled_at     timestamptz,
    constraint webhook_deliveries_integration_id_fkey foreign key (integration_id) references integrations (id) on delete cascade,
    constraint webhook_deliveries_integration_id_external_id_key unique (integration_id, external_id),
    constraint webhook_deliveries_external_id_check check (char_length(external_id) between 1 and 200),
    constraint webhook_deliveries_happened_check check (happened in ('changed', 'revoked', 'other')),
    constraint webhook_deliveries_state_check check (state in ('pending', 'handled')),
    constraint webhook_deliveries_handled_at_check check ((state = 'handled') = (handled_at is not null)),
    constraint webhook_deliveries_outcome_check check ((state = 'handled') = (outcome is not null))
);
create index webhook_deliveries_integration_id_idx on webhook_deliveries (integration_id, id);
create index webhook_deliveries_pending_idx on webhook_deliveries (integration_id) where state = 'pending';
create index webhook_deliveries_received_at_idx on webhook_deliveries (received_at);
