"""Each way in which the books could disagree with themselves, as a query for the rows that do.

A query gives (subject, expected, found), is one statement, and so sees one moment.
"""

from typing import Final

EVERY_ENTRY: Final[dict[str, str]] = {
    "wallet balance = sum of its entries": """
        SELECT 'wallet of ' || wallet.owner_id AS subject, coalesce(entries.total, 0) AS expected,
            wallet.balance_micros AS found
        FROM billing.wallets wallet
        LEFT JOIN (
            SELECT wallet_id,
                sum(CASE WHEN credit_account_id = wallet_id THEN amount_micros ELSE -amount_micros END) AS total
            FROM billing.ledger_entries WHERE wallet_id IS NOT NULL GROUP BY wallet_id
        ) entries ON entries.wallet_id = wallet.id
        WHERE wallet.balance_micros <> coalesce(entries.total, 0)
        ORDER BY wallet.id
    """,
    "entry's balance = balance before it + its amount": """
        SELECT 'entry ' || id AS subject, expected, wallet_balance_micros AS found
        FROM (
            SELECT id, wallet_balance_micros,
                coalesce(lag(wallet_balance_micros) OVER (PARTITION BY wallet_id ORDER BY id), 0)
                + CASE WHEN credit_account_id = wallet_id THEN amount_micros ELSE -amount_micros END AS expected
            FROM billing.ledger_entries WHERE wallet_id IS NOT NULL
        ) chain
        WHERE expected <> wallet_balance_micros
        ORDER BY id
    """,
    "entry's accounts exist (account ids missing)": """
        SELECT 'entry ' || entry.id AS subject, 0 AS expected, 1 AS found
        FROM billing.ledger_entries entry
        WHERE NOT EXISTS (SELECT FROM billing.accounts WHERE id = entry.debit_account_id)
            OR NOT EXISTS (SELECT FROM billing.accounts WHERE id = entry.credit_account_id)
        ORDER BY entry.id
    """,
    "key spent = sum of its entries": """
        SELECT 'key ' || key_id AS subject, coalesce(entries.total, 0) AS expected,
            coalesce(spend.total, 0) AS found
        FROM (SELECT key_id, sum(spent_micros) AS total FROM billing.key_spend GROUP BY key_id) spend
        FULL JOIN (
            SELECT key_id, sum(amount_micros) AS total
            FROM billing.ledger_entries WHERE key_id IS NOT NULL GROUP BY key_id
        ) entries USING (key_id)
        WHERE coalesce(spend.total, 0) <> coalesce(entries.total, 0)
        ORDER BY key_id
    """,
}
"""Stored sums against all entries that ever were."""

RECENT_ENTRIES: Final[dict[str, str]] = {
    "wallet balance = its snapshot + its entries since": """
        SELECT 'wallet of ' || wallet.owner_id AS subject,
            coalesce(snapshot.balance_micros, 0) + coalesce(since.total, 0) AS expected, wallet.balance_micros AS found
        FROM billing.wallets wallet
        LEFT JOIN billing.balance_snapshots snapshot ON snapshot.wallet_id = wallet.id
        CROSS JOIN LATERAL (
            SELECT sum(
                CASE WHEN entry.credit_account_id = wallet.id THEN entry.amount_micros ELSE -entry.amount_micros END
            ) AS total
            FROM billing.ledger_entries entry
            WHERE entry.wallet_id = wallet.id AND entry.id > coalesce(snapshot.through_entry_id, 0)
        ) since
        WHERE wallet.balance_micros <> coalesce(snapshot.balance_micros, 0) + coalesce(since.total, 0)
        ORDER BY wallet.id
    """,
    "snapshot = balance after its entry": """
        SELECT 'snapshot of wallet ' || snapshot.wallet_id AS subject, entry.wallet_balance_micros AS expected,
            snapshot.balance_micros AS found
        FROM billing.balance_snapshots snapshot
        JOIN billing.ledger_entries entry ON entry.id = snapshot.through_entry_id
        WHERE entry.wallet_balance_micros <> snapshot.balance_micros
        ORDER BY snapshot.wallet_id
    """,
}
"""Wallets against their snapshots: reads only what is newer, for audits many times a day."""

STATE: Final[dict[str, str]] = {
    "wallet held = sum of its open holds": """
        SELECT 'wallet of ' || wallet.owner_id AS subject, coalesce(open.total, 0) AS expected,
            wallet.held_micros AS found
        FROM billing.wallets wallet
        LEFT JOIN (
            SELECT wallet_id, sum(amount_micros) AS total FROM billing.holds GROUP BY wallet_id
        ) open ON open.wallet_id = wallet.id
        WHERE wallet.held_micros <> coalesce(open.total, 0)
        ORDER BY wallet.id
    """,
    "key held = sum of its open holds": """
        SELECT 'key ' || key_id || ' since ' || period_start AS subject, coalesce(open.total, 0) AS expected,
            coalesce(spend.held_micros, 0) AS found
        FROM billing.key_spend spend
        FULL JOIN (
            SELECT wallet_id, key_id, period_start, sum(amount_micros) AS total
            FROM billing.holds WHERE key_id IS NOT NULL GROUP BY wallet_id, key_id, period_start
        ) open USING (wallet_id, key_id, period_start)
        WHERE coalesce(spend.held_micros, 0) <> coalesce(open.total, 0)
        ORDER BY key_id
    """,
    "open hold is not resolved": """
        SELECT 'hold ' || hold.id AS subject, 0 AS expected, 1 AS found
        FROM billing.holds hold
        WHERE EXISTS (SELECT FROM billing.hold_releases released WHERE released.hold_id = hold.id)
            OR EXISTS (SELECT FROM billing.ledger_entries entry WHERE entry.reference = hold.id)
        ORDER BY hold.id
    """,
    "grant = its entry": """
        SELECT 'grant ' || granted.id AS subject, granted.amount_micros AS expected,
            coalesce(
                CASE WHEN entry.credit_account_id = granted.wallet_id
                    THEN entry.amount_micros ELSE -entry.amount_micros END, 0) AS found
        FROM billing.grants granted
        LEFT JOIN billing.ledger_entries entry
            ON entry.reference = granted.id AND entry.wallet_id = granted.wallet_id
        WHERE granted.amount_micros IS DISTINCT FROM
            CASE WHEN entry.credit_account_id = granted.wallet_id
                THEN entry.amount_micros ELSE -entry.amount_micros END
        ORDER BY granted.id
    """,
    "wallet owed = balance of its receivable": """
        SELECT 'wallet of ' || wallet.owner_id AS subject, coalesce(receivable.total, 0) AS expected,
            wallet.owed_micros AS found
        FROM billing.wallets wallet
        LEFT JOIN LATERAL (
            SELECT sum(CASE WHEN entry.debit_account_id = account.id
                THEN entry.amount_micros ELSE -entry.amount_micros END) AS total
            FROM billing.accounts account
            JOIN billing.payments payment ON payment.wallet_id = wallet.id
            JOIN billing.payment_postings posting ON posting.payment_id = payment.id
            JOIN billing.ledger_entries entry ON entry.reference = posting.id
                AND account.id IN (entry.debit_account_id, entry.credit_account_id)
            WHERE account.owner_id = wallet.owner_id AND account.kind = 'receivable'
        ) receivable ON true
        WHERE wallet.owed_micros <> coalesce(receivable.total, 0)
        ORDER BY wallet.id
    """,
    "payment's posted amounts = its entries": """
        SELECT 'payment ' || payment.id AS subject, payment.credited_micros
                + CASE WHEN payment.credited_micros > 0 THEN payment.fee_micros ELSE 0 END
                - payment.refund_credit_micros - payment.refund_fee_micros
                - payment.dispute_credit_micros - payment.dispute_fee_micros AS expected,
            coalesce(posted.total, 0) AS found
        FROM billing.payments payment
        LEFT JOIN LATERAL (
            SELECT sum(CASE WHEN entry.debit_account_id IN (20, 22, 23)
                THEN entry.amount_micros ELSE -entry.amount_micros END) AS total
            FROM billing.payment_postings posting
            JOIN billing.ledger_entries entry ON entry.reference = posting.id
                AND (entry.debit_account_id IN (20, 22, 23) OR entry.credit_account_id IN (20, 22, 23))
            WHERE posting.payment_id = payment.id
        ) posted ON true
        WHERE coalesce(posted.total, 0) <> payment.credited_micros
            + CASE WHEN payment.credited_micros > 0 THEN payment.fee_micros ELSE 0 END
            - payment.refund_credit_micros - payment.refund_fee_micros
            - payment.dispute_credit_micros - payment.dispute_fee_micros
        ORDER BY payment.id
    """,
    "credit lots <= wallet balance when attributed": """
        SELECT 'wallet ' || attribution.wallet_id AS subject, entry.wallet_balance_micros AS expected,
            lots.total AS found
        FROM billing.credit_attributions attribution
        JOIN billing.ledger_entries entry ON entry.id = attribution.through_entry_id
        JOIN (
            SELECT wallet_id, sum(remaining_micros) AS total FROM billing.credit_lots
            WHERE remaining_micros > 0 GROUP BY wallet_id
        ) lots ON lots.wallet_id = attribution.wallet_id
        WHERE lots.total > entry.wallet_balance_micros
        ORDER BY attribution.wallet_id
    """,
    "ended credit = its entry": """
        SELECT 'credit expiry ' || expiry.id AS subject, expiry.amount_micros AS expected,
            coalesce(entry.amount_micros, 0) AS found
        FROM billing.credit_expiries expiry
        LEFT JOIN billing.ledger_entries entry ON entry.reference = expiry.id AND entry.kind = 'breakage'
        WHERE expiry.amount_micros IS DISTINCT FROM entry.amount_micros
        ORDER BY expiry.id
    """,
    "promotional grant has its lot": """
        SELECT 'grant ' || granted.id AS subject, granted.amount_micros AS expected,
            coalesce(lot.amount_micros, 0) AS found
        FROM billing.grants granted LEFT JOIN billing.credit_lots lot ON lot.grant_id = granted.id
        WHERE granted.kind = 'promotional' AND granted.amount_micros IS DISTINCT FROM lot.amount_micros
        ORDER BY granted.id
    """,
}
"""Everything else: holds, grants, payments, debts and lots against the rows behind them."""
