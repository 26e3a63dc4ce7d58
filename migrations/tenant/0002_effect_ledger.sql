-- Who sends a message, and how often its outcome was unknown, is the word of the queue's effect ledger (queue.effects) from
-- here on. A delivery says what became of the message; a reminder is written when it was sent.
update deliveries set state = 'pending' where state = 'sending';
alter table deliveries
    drop constraint deliveries_state_check,
    drop column claimed_by,
    drop column claimed_until,
    drop column attempts,
    drop column unknown_outcomes,
    add constraint deliveries_state_check check (state in ('pending', 'sent', 'rejected'));
