-- WORK-3. How many invitations an organization has sent today is asked with each of them.
create index invitations_token_at_idx on invitations (token_at, invited_by, token_number);
