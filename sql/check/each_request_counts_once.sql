-- Requests of the day that are stored more than once.
select
    request_id,
    count(*) as stored
from validated.requests
where
    finished_at >= cast($utc_day as date)
    and finished_at < cast($utc_day as date) + interval 1 day
group by request_id
having count(*) > 1
