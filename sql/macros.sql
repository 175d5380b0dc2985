-- What several tables' SQL says alike. The file is run at every open, before schema.sql.
create schema if not exists metric;
create schema if not exists rollup;

-- Whether no engine worked on a request: none was asked, or it answered with an error status, and no usage came. Of
-- a machine without an id, "upstream_gone" before the status is taken for one that nobody could reach; all else that
-- is not known reached one. docs/method.md, "Coverage".
create or replace macro rollup.is_refused(usage_source, end_reason, upstream_status, vm_id) as (
    usage_source = 'none'
    and coalesce(
        upstream_status >= 400,
        end_reason = 'refused' or (end_reason = 'upstream_gone' and vm_id is null)
    )
);

-- Quotients are of integers, because one of decimals would be a binary float. Null where the divisor is 0 or unknown.
-- docs/method.md, "Rounding". Rounded down, also below zero.
create or replace macro metric.floor_quotient(dividend, divisor) as (
    (dividend - ((dividend % nullif(divisor, 0)) + divisor) % nullif(divisor, 0)) // nullif(divisor, 0)
);
-- Rounded half to even.
create or replace macro metric.quotient(dividend, divisor) as (
    metric.floor_quotient(dividend, divisor)
    + case
        when 2 * (dividend - divisor * metric.floor_quotient(dividend, divisor)) > divisor then 1
        when
            2 * (dividend - divisor * metric.floor_quotient(dividend, divisor)) = divisor
            and metric.floor_quotient(dividend, divisor) % 2 != 0
            then 1
        else 0
    end
);
-- Of two whole numbers, at 6 decimals.
create or replace macro metric.ratio(dividend, divisor) as (
    cast(metric.quotient(1000000 * cast(dividend as hugeint), cast(divisor as hugeint)) as decimal(38, 0))
    * cast(0.000001 as decimal(7, 6))
);
-- Of US dollars and a count, at 12 decimals.
create or replace macro metric.usd_per(usd, units) as (
    cast(
        metric.quotient(cast(usd * 1000000000000000 as hugeint), 1000 * cast(units as hugeint)) as decimal(38, 0)
    ) * cast(0.000000000001 as decimal(13, 12))
);
create or replace macro metric.usd_per_million(usd, units) as (
    cast(
        metric.quotient(1000 * cast(usd * 1000000000000000 as hugeint), cast(units as hugeint)) as decimal(38, 0)
    ) * cast(0.000000000001 as decimal(13, 12))
);
-- What_if: the USD per million tokens at another duty cycle than the measured one, with the same dollars spread over
-- tokens that follow the busy time; a binary float. docs/method.md, "Break-even and what-if", has what it assumes.
create or replace macro metric.what_if_usd_per_million(usd, served_tokens, measured_ratio, duty_cycle_ratio) as (
    1000000 * cast(usd as double) / served_tokens * measured_ratio / duty_cycle_ratio
);
