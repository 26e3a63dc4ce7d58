-- EVT-2. Who appends events wakes the processes that have followers: once per transaction and organization, however many
-- events there are (PostgreSQL folds equal notifications of a transaction). The payload names the organization's schema.
create function public.tell_of_events() returns trigger
language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_notify('events', tg_table_schema);
    return null;
end
$$;
