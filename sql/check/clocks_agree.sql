-- Hours of the day in which Hyperstack's clock was more than a minute apart from ours, by the Date header of its
-- answers: a warning, look at our time service. Days are cut by our clock in snapshots, by theirs in bills. Seconds.
select
    date_trunc('hour', observed_at) as hour,
    count(*) as exchanges,
    min(clock_skew_seconds) as least_skew_seconds,
    max(clock_skew_seconds) as most_skew_seconds
from validated.exchanges
where
    observed_at >= cast($utc_day as date)
    and observed_at < cast($utc_day as date) + 1
    and abs(clock_skew_seconds) > 60
group by date_trunc('hour', observed_at)
order by date_trunc('hour', observed_at)
