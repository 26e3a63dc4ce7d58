-- EVT-3, SYNC-11. Which events are told where: a rule names events and a channel of a connected Slack.
create table notification_rules (
    id             uuid primary key,
    integration_id uuid        not null,
    events         text        not null,       -- `asset.assigned`, or all of a family: `asset.*`
    channel        text        not null,       -- Slack's id of a channel; an e-mail address is a person's direct messages
    language       text,                       -- null: the organization's
    mention        boolean     not null default true, -- whom an event concerns is looked up by e-mail and mentioned
    enabled        boolean     not null default true,
    error          text,                       -- why Slack takes nothing in this channel; nothing is posted before the rule is changed
    failed_at      timestamptz,
    last_posted_at timestamptz,
    created_at     timestamptz not null,
    updated_at     timestamptz not null,
    -- The place, whose rate limit (`slack:<lane>`) all messages that go there share.
    lane           text        not null generated always as (
        integration_id::text || ':' || case when strpos(channel, '@') > 0 then md5(lower(channel)) else channel end
    ) stored,
    constraint notification_rules_integration_id_fkey foreign key (integration_id) references integrations (id) on delete cascade,
    constraint notification_rules_integration_id_events_channel_key unique (integration_id, events, channel),
    constraint notification_rules_events_check check (events ~ '^[a-z]+\.(\*|[a-z_]{1,50})$'),
    constraint notification_rules_channel_check check (char_length(channel) between 3 and 255),
    constraint notification_rules_language_check check (language in ('sv', 'en')),
    constraint notification_rules_failed_at_check check ((error is null) = (failed_at is null))
);

-- Who is who at Slack, so that a person is not looked up for each message. `slack_user` is null for somebody whom it does not know.
create table slack_people (
    integration_id uuid        not null,
    email          text        not null,       -- lower case
    slack_user     text,
    looked_up_at   timestamptz not null,
    constraint slack_people_pkey primary key (integration_id, email),
    constraint slack_people_integration_id_fkey foreign key (integration_id) references integrations (id) on delete cascade
);

-- EVT-3. Enqueues a message for each event and each rule that names it, in the event's own transaction: neither is there without the
-- other, whoever appends the event. More than ten events of a kind in one statement, as a sync writes them, are one message that says
-- how many there were. Without a rule it is one look at an empty table per statement.
--
-- Queue, attempts and rate limit are those of the kind `slack.post` (jobs/slack/post.rs), which a test compares.
create function notify_by_rules() returns trigger
language plpgsql set search_path from current as $$
declare
    organization text;
begin
    if not exists (select from notification_rules r where r.enabled and r.failed_at is null) then
        return null;
    end if;
    organization := queue.caller_tenant();
    if organization is null then           -- the program itself, not one of its organizations' roles
        select o.slug into organization from public.organizations o where o.schema_name = tg_table_schema;
    end if;
    if organization is null then
        return null;
    end if;
    perform queue.enqueue(
        array_agg(j.id), array_agg('notifications'::text), array_agg('slack.post'::text), array_agg(organization),
        array_agg(0::smallint), array_agg(null::timestamptz), array_agg(8), array_agg(j.args), array_agg(null::text),
        array_agg(null::text), array_agg(false), array_agg(null::timestamptz), array_agg('slack:' || j.lane), array_agg(null::uuid), true)
    from (
        select -- A UUIDv7 of random bits and the clock's milliseconds (RFC 9562, section 5.7): jobs are listed in the order of ids.
               encode(set_bit(set_bit(overlay(uuid_send(gen_random_uuid()) placing
                   substring(int8send((extract(epoch from clock_timestamp()) * 1000)::bigint) from 3) from 1 for 6),
                   52, 1), 53, 1), 'hex')::uuid as id,
               m.lane,
               jsonb_build_object('rule_id', m.rule_id, 'event_id', m.event_id, 'lane', m.lane)
                   || case when m.together > 10 then jsonb_build_object('others', m.together - 1) else '{}' end as args
        from (
            select r.id as rule_id, r.lane, e.id as event_id,
                   count(*) over (partition by r.id, e.kind) as together,
                   row_number() over (partition by r.id, e.kind order by e.id) as nth
            from appended e
            join notification_rules r on r.enabled and r.failed_at is null
             and (e.kind = r.events or (right(r.events, 2) = '.*' and starts_with(e.kind, left(r.events, -1))))
        ) m
        where m.together <= 10 or m.nth = 1
        order by m.event_id, m.rule_id
    ) j
    having count(*) > 0;
    return null;
end
$$;
create trigger events_notify after insert on events referencing new table as appended
    for each statement execute function notify_by_rules();
