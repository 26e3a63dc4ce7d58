-- ASSET-3, ASSET-4. What an asset is said to have cost or to be worth can be corrected; its history says so.
alter table asset_transactions
    drop constraint asset_transactions_kind_check,
    add constraint asset_transactions_kind_check
        check (kind in ('created', 'assigned', 'returned', 'transferred', 'status_changed',
                        'cost_changed', 'residual_value_changed', 'book_value_changed'));
