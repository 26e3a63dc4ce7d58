-- ASSET-3, ASSET-4. What an asset is said to have cost or to be worth can be corrected; its history says so.
alter table asset_transactions
    drop constraint asset_transactions_kind_check,
    add constraint asset_transactions_kind_check
        check (kind in ('created', 'assigned', 'returned', 'transferred', 'status_changed',
                        'cost_changed', 'residual_value_changed', 'book_value_changed'));

-- ASSET-6. Whom a source has terminated: their offboarding starts at the end of its run (`due`), or when somebody has had a look, because
-- they were too many at once (`held`).
alter table employees
    add column offboarding text,
    add constraint employees_offboarding_check check (offboarding in ('due', 'held'));
create index employees_offboarding_idx on employees (integration_id, id) where offboarding is not null;

-- SYNC-9, SYNC-10. What was bought with a document is found by the document's id, which its things' ids begin with.
create index assets_document_idx on assets (integration_id, split_part(external_id, ':', 1)) where external_id like '%:%';
