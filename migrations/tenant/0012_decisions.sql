-- JOIN-5. The mail that tells of a decision can be sent again, with a new link; and staff sees that it did not go out.
alter table join_requests
    add column decision_number integer not null default 1, -- counts the mails that tell of the decision
    add column decision_error  text,                       -- why there will be no mail with the present number
    add constraint join_requests_decision_number_check check (decision_number >= 1),
    add constraint join_requests_decision_error_check check (decision_error is null or decided_at is not null),
    add constraint join_requests_hashes_check
        check (octet_length(token_hash) = 32 and octet_length(used_token_hash) = 32 and octet_length(password_hash) = 32),
    add constraint join_requests_password_expires_at_check check ((password_hash is null) = (password_expires_at is null));
