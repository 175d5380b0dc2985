-- Every table in stage order: types, units and keys. Money is decimal USD, tokens are bigint, instants are timestamptz
-- in UTC. Unknown is null, never 0. The file is run at every open; nothing here depends on data.
create schema if not exists validated;
create schema if not exists rollup;
create schema if not exists metric;

-- One row per raw file or log segment that was read.
-- rows_read = rows_accepted + rows_quarantined + rows_repeated, always.
create table if not exists validated.ingested_files (
    source_file varchar not null,
    source varchar not null,
    sha256 varchar not null,
    size_bytes bigint not null,
    rows_read bigint not null,
    rows_accepted bigint not null,
    rows_quarantined bigint not null,
    rows_repeated bigint not null,
    rows_unknown bigint not null
);
comment on column validated.ingested_files.source is 'hyperstack, request_log, invoices or list_prices';
comment on column validated.ingested_files.rows_unknown is
'log lines of a kind that this version does not know, part of rows_accepted';

-- One row per HTTP exchange with Hyperstack, failed ones included.
create table if not exists validated.exchanges (
    scheduled_at timestamptz not null,
    observed_at timestamptz not null,
    endpoint varchar not null,
    query varchar not null,
    http_status integer,
    is_good boolean not null,
    items bigint,
    problem varchar,
    clock_skew_seconds bigint,
    schema_drift varchar,
    source_file varchar not null,
    source_line bigint not null
);
comment on column validated.exchanges.is_good is
'answered 200 and read as a whole: no row of counters, machines or billing history refused, all pages of a list at '
'rest';
comment on column validated.exchanges.clock_skew_seconds is
'Hyperstack''s clock minus ours, by the Date header; null without one';
comment on column validated.exchanges.schema_drift is
'names of fields that this version does not know; their items are read all the same';

-- One row per resource and observation of its running counters.
create table if not exists validated.billing_snapshots (
    observed_at timestamptz not null,
    resource_type varchar not null,
    resource_id bigint not null,
    resource_name varchar,
    created_at timestamptz not null,
    terminated_at timestamptz,
    rate_usd_per_minute decimal(28, 15),
    total_bill_usd decimal(28, 9) not null,
    is_active boolean not null,
    is_excluded boolean not null,
    source_file varchar not null,
    source_line bigint not null
);
comment on column validated.billing_snapshots.total_bill_usd is
'USD since created_at, read at nano-dollars: this is the named rounding that takes off binary float noise';
comment on column validated.billing_snapshots.rate_usd_per_minute is
'USD a minute as Hyperstack shows it at that instant; null once terminated';

-- One row per figure of a billing history answer for the window that was asked for.
create table if not exists validated.billing_history (
    observed_at timestamptz not null,
    window_start timestamptz not null,
    window_end timestamptz not null,
    resource_type varchar not null,
    resource_id bigint,
    billing_id varchar,
    resource_name varchar,
    figure varchar not null,
    amount_usd decimal(38, 18) not null,
    source_file varchar not null,
    source_line bigint not null
);
comment on column validated.billing_history.resource_type is 'organisation for the totals';
comment on column validated.billing_history.billing_id is
'the billing system''s own id of the line; where it has none, a digest of its attributes without the status';
comment on column validated.billing_history.figure is 'as Hyperstack names it: incurred_bill, vm_cost, ...';

-- One row per bucket of a resource's cost graph.
create table if not exists validated.billing_graphs (
    observed_at timestamptz not null,
    resource_type varchar not null,
    resource_id bigint not null,
    bucket_start timestamptz not null,
    bucket_seconds bigint not null,
    amount_usd decimal(38, 18) not null,
    source_file varchar not null,
    source_line bigint not null
);

-- One row per billing event of a VM: from when it was billed in which state.
create table if not exists validated.billing_events (
    observed_at timestamptz not null,
    vm_id bigint not null,
    started_at timestamptz not null,
    vm_status varchar not null,
    usd_per_hour decimal(28, 15),
    source_file varchar not null,
    source_line bigint not null
);
comment on column validated.billing_events.started_at is 'cut at the start of the window that was asked for';

-- One row per observation of the prepaid balance.
create table if not exists validated.credit_balances (
    observed_at timestamptz not null,
    balance_usd decimal(28, 9) not null,
    source_file varchar not null,
    source_line bigint not null
);

-- One row per payment into the prepaid balance and observation of the list of payments.
create table if not exists validated.payments (
    observed_at timestamptz not null,
    payment_id varchar not null,
    paid_at timestamptz not null,
    payment_status varchar,
    amount_usd decimal(28, 9) not null,
    tax_usd decimal(28, 9),
    source_file varchar not null,
    source_line bigint not null
);
comment on column validated.payments.amount_usd is 'USD for the balance, without tax';

-- One row per name and observation of the price book.
create table if not exists validated.prices (
    observed_at timestamptz not null,
    price_name varchar not null,
    usd_per_hour decimal(28, 15) not null,
    list_usd_per_hour decimal(28, 15),
    source_file varchar not null,
    source_line bigint not null
);

-- One row per thing known about a VM's state at an instant: seen in the fleet list, told by an event, or probed by the
-- proxy.
create table if not exists validated.vm_states (
    observed_at timestamptz not null,
    vm_id bigint not null,
    source varchar not null,
    vm_status varchar,
    reason varchar,
    is_ready boolean,
    has_public_ip boolean,
    gpu_name varchar,
    gpu_count integer,
    source_file varchar not null,
    source_line bigint not null
);
comment on column validated.vm_states.source is 'fleet, event or health';
comment on column validated.vm_states.vm_status is
'status from this instant on; null for health and for events that change none';
comment on column validated.vm_states.is_ready is 'health only: the engine answered the proxy''s probe';

-- One row per request that ended, as the proxy logged it.
create table if not exists validated.requests (
    request_id varchar not null,
    started_at timestamptz not null,
    first_byte_at timestamptz,
    finished_at timestamptz not null,
    endpoint varchar not null,
    requested_model varchar,
    model varchar,
    is_stream boolean not null,
    is_canary boolean not null,
    vm_id bigint,
    key_id varchar,
    http_status integer,
    upstream_status integer,
    end_reason varchar not null,
    usage_source varchar not null,
    prompt_tokens bigint,
    completion_tokens bigint,
    cached_tokens bigint,
    reasoning_tokens bigint,
    choices integer,
    is_recovered boolean not null,
    source_file varchar not null,
    source_line bigint not null
);
comment on column validated.requests.usage_source is
'engine_final: vLLM''s own final usage; engine_partial: the last that vLLM sent, a lower bound; none: tokens null';
comment on column validated.requests.is_recovered is 'its writer died: counted from its begin and last usage lines';

-- Requests that began in a segment and did not end in it. Emptied by nothing: an end elsewhere makes the row moot.
create table if not exists validated.request_begins (
    request_id varchar not null,
    started_at timestamptz not null,
    endpoint varchar not null,
    requested_model varchar,
    is_stream boolean not null,
    is_canary boolean not null,
    vm_id bigint,
    key_id varchar,
    source_file varchar not null,
    source_line bigint not null
);

-- Last usage line per segment of requests that did not end in it.
create table if not exists validated.request_usages (
    request_id varchar not null,
    observed_at timestamptz not null,
    prompt_tokens bigint,
    completion_tokens bigint,
    source_file varchar not null,
    source_line bigint not null
);

-- Requests that a recovery seal names: their writer died, they will never end.
create table if not exists validated.request_stops (
    request_id varchar not null,
    source_file varchar not null,
    source_line bigint not null
);

-- One row per sealed log segment that has a head: its place in the chain of its writer, and whether it is whole.
create table if not exists validated.log_segments (
    writer varchar not null,
    started_at timestamptz not null,
    ended_at timestamptz not null,
    previous varchar,
    previous_sha256 varchar,
    sealed_by varchar,
    body_sha256 varchar,
    rows_missing bigint not null,
    torn_bytes bigint not null,
    source_file varchar not null,
    source_line bigint not null
);
comment on column validated.log_segments.ended_at is 'last instant that a line tells';
comment on column validated.log_segments.previous is
'name, without suffix, of the segment that its writer sealed before; null for the first';
comment on column validated.log_segments.rows_missing is
'lines that the seal or the numbers of the lines tell of and that are not there or cannot be read';
comment on column validated.log_segments.body_sha256 is 'of all bytes before the seal, as the seal says';

-- One row per scrape of an engine's own token counters.
create table if not exists validated.engine_counters (
    observed_at timestamptz not null,
    vm_id bigint,
    upstream varchar,
    process_started_at timestamptz,
    prompt_tokens_total bigint,
    generation_tokens_total bigint,
    source_file varchar not null,
    source_line bigint not null
);

-- One row per line of every loaded revision of an invoice, as the operator's file has it. The newest revision counts.
create table if not exists validated.invoice_lines (
    invoice_number varchar not null,
    revision bigint not null,
    loaded_at timestamptz not null,
    line bigint not null,
    description varchar not null,
    resource_type varchar,
    resource_id bigint,
    category varchar,
    quantity decimal(28, 9),
    unit varchar,
    billed_usd decimal(28, 9) not null,
    period_start date not null,
    period_end date not null,
    source_file varchar not null,
    source_line bigint not null
);
comment on column validated.invoice_lines.category is
'vm, volume, snapshot, bucket, cluster, contract, other or tax; null where the line bills one resource';
comment on column validated.invoice_lines.period_end is 'first UTC day after the billed period';

-- One row per UTC day of our own copy of list prices, basket, member and tier. Rows never change.
create table if not exists validated.list_prices (
    copied_at timestamptz not null,
    utc_day date not null,
    basket varchar not null,
    basket_version bigint not null,
    provider varchar not null,
    model varchar not null,
    model_name varchar not null,
    prices_version varchar not null,
    from_prompt_tokens bigint not null,
    input_usd_per_million decimal(28, 9),
    cached_input_usd_per_million decimal(28, 9),
    output_usd_per_million decimal(28, 9),
    unpriced_reason varchar,
    source_file varchar not null,
    source_line bigint not null
);
comment on column validated.list_prices.utc_day is 'on which the copy was made';
comment on column validated.list_prices.prices_version is 'name and version of the price list: genai-prices 0.2.3';
comment on column validated.list_prices.from_prompt_tokens is
'the tier holds for whole requests with so many prompt tokens or more, up to the next tier';
comment on column validated.list_prices.cached_input_usd_per_million is 'null: cached tokens cost what others do';
comment on column validated.list_prices.unpriced_reason is 'why the member has no price; null where it has one';
-- One row per model and machine that serves it, as SPOTINFERENCE_MODELS says at the time of the newest ingest.
create table if not exists validated.served_models (
    model varchar not null,
    vm_id bigint not null
);

-- One row per thing that was refused, with the reason and what was there.
create table if not exists validated.quarantine (
    source_file varchar not null,
    source_line bigint not null,
    position varchar not null,
    target_table varchar not null,
    reason varchar not null,
    content varchar not null
);
comment on column validated.quarantine.content is 'first 2,000 characters; the raw file keeps the rest';

-- One row per UTC day: how much of it was seen.
create table if not exists rollup.snapshot_days (
    utc_day date not null,
    minutes_expected bigint not null,
    minutes_good bigint not null,
    exchanges bigint not null,
    exchanges_failed bigint not null
);

-- One row per UTC day and resource: what it cost, what its counter moved by, and how sure the ends of the day are.
create table if not exists rollup.resource_days (
    utc_day date not null,
    resource_type varchar not null,
    resource_id bigint not null,
    resource_name varchar,
    cost_usd decimal(38, 15) not null,
    counter_usd decimal(38, 15) not null,
    edge_usd decimal(38, 15) not null,
    outside_usd decimal(38, 15) not null,
    source varchar not null,
    unseen_seconds decimal(18, 6) not null,
    readings bigint not null,
    is_excluded boolean not null
);
comment on column rollup.resource_days.cost_usd is
'what Hyperstack''s books say where there is one, else counter_usd';
comment on column rollup.resource_days.source is
'counters; books: the bill; books, hours inferred: the bill, unseen time divided by graph, events and rates';
comment on column rollup.resource_days.unseen_seconds is
'of the day, in gaps of 15 minutes or more between two readings; 0 without a book';
comment on column rollup.resource_days.edge_usd is
'part of cost_usd whose side of midnight is inferred from the rate, not read, and credits seen after it';

-- One row per UTC day, resource and cost_kind. Sums to rollup.resource_days.cost_usd exactly.
create table if not exists rollup.cost_days (
    utc_day date not null,
    resource_type varchar not null,
    resource_id bigint not null,
    cost_kind varchar not null,
    cost_usd decimal(38, 15) not null
);
comment on column rollup.cost_days.cost_kind is 'busy, idle, cold_start, parked, storage, network, other or credit';

-- One row per UTC day, resource and cost_kind as the day's first book billed it: no later book edits a row. With what
-- later books brought (rollup.adjustments) it sums to rollup.cost_days. Before there is a book, the same as cost_days.
create table if not exists rollup.charge_days (
    utc_day date not null,
    resource_type varchar not null,
    resource_id bigint not null,
    cost_kind varchar not null,
    cost_usd decimal(38, 15) not null,
    list_cost_usd decimal(38, 15)
);
comment on column rollup.charge_days.list_cost_usd is
'at Hyperstack''s list prices (non_discounted_bill), divided like the bill; null where no line of the book says it';

-- One row per UTC day, resource and booked difference between our own ledger and Hyperstack's books.
create table if not exists rollup.adjustments (
    utc_day date not null,
    resource_type varchar not null,
    resource_id bigint not null,
    reason varchar not null,
    cost_usd decimal(38, 15) not null,
    tolerance_usd decimal(38, 15) not null,
    booked_at timestamptz not null
);
comment on column rollup.adjustments.reason is
'boundary, gap, rate, unseen or unattributed in the first book; correction in later ones, or where a credit was seen; '
'month_boundary on the last day of a month: what the month''s book has beyond its days''';

-- One row per UTC day that Hyperstack's books were read of.
create table if not exists rollup.reconciliation_days (
    utc_day date not null,
    books bigint not null,
    first_book_at timestamptz not null,
    last_book_at timestamptz not null,
    is_final boolean not null,
    is_agreed boolean not null,
    billed_usd decimal(38, 15) not null,
    counter_usd decimal(38, 15) not null,
    residual_usd decimal(38, 15) not null,
    unattributed_usd decimal(38, 15) not null
);
comment on column rollup.reconciliation_days.books is 'that were read as a whole, 2 hours after the day or later';
comment on column rollup.reconciliation_days.is_final is 'read at D+3 or later';
comment on column rollup.reconciliation_days.is_agreed is
'where somebody looked our counters are within 0.50 USD or 0.1 % of the bill, and unattributed is 0 to 1 % of it';
comment on column rollup.reconciliation_days.residual_usd is
'sum of |first book''s line - our own ledger|, before it was booked; without what is unattributed';

-- One row per UTC day and VM: where its time went.
create table if not exists rollup.vm_days (
    utc_day date not null,
    vm_id bigint not null,
    gpu_count integer,
    alive_seconds decimal(18, 6) not null,
    active_seconds decimal(18, 6) not null,
    busy_seconds decimal(18, 6) not null,
    cold_start_seconds decimal(18, 6) not null,
    wakes bigint not null,
    failed_wakes bigint not null,
    unexplained_changes bigint not null
);
comment on column rollup.vm_days.unexplained_changes is
'status changes that no event explained: cut at the middle of their gap';

-- One row per UTC day and wake that began or was cold on it. Sums to the cold_start of rollup.cost_days and vm_days.
create table if not exists rollup.wake_days (
    utc_day date not null,
    vm_id bigint not null,
    started_at timestamptz not null,
    found_by varchar not null,
    ready_at timestamptz,
    ready_by varchar,
    is_failed boolean not null,
    cold_seconds decimal(18, 6) not null,
    cost_usd decimal(38, 15) not null
);
comment on column rollup.wake_days.started_at is 'first second that is billed as ACTIVE';
comment on column rollup.wake_days.found_by is 'event: its second is known; gap_middle: it was seen after a gap';
comment on column rollup.wake_days.ready_by is 'probe or first_byte; null where it was not ready';

-- One row per UTC day and time at which a VM left ACTIVE.
create table if not exists rollup.parks (
    utc_day date not null,
    vm_id bigint not null,
    parked_at timestamptz not null,
    vm_status varchar not null,
    found_by varchar not null
);

-- One row per UTC day: the prepaid balance beside the running counters. Null where there is no prepaid balance.
create table if not exists rollup.credit_days (
    utc_day date not null,
    opened_at timestamptz,
    closed_at timestamptz,
    opening_balance_usd decimal(28, 9),
    closing_balance_usd decimal(28, 9),
    topped_up_usd decimal(28, 9),
    paid_in_usd decimal(28, 9),
    usage_usd decimal(28, 9),
    drift_usd decimal(28, 9),
    readings bigint not null
);
comment on column rollup.credit_days.opened_at is 'last reading at or before the day''s first instant';
comment on column rollup.credit_days.closed_at is 'last reading at or before the next day''s first instant';
comment on column rollup.credit_days.readings is 'balances read after opened_at up to closed_at';
comment on column rollup.credit_days.paid_in_usd is
'payments made after opened_at up to closed_at; null where their list was not read since';
comment on column rollup.credit_days.drift_usd is
'opening - closing + topped up - usage: above 0, the balance lost more than the counters say';

-- One row per UTC day: the organisation's month-to-date total at both ends of the day, as read each minute.
create table if not exists rollup.organisation_days (
    utc_day date not null,
    opened_at timestamptz,
    closed_at timestamptz,
    opening_usd decimal(38, 9),
    closing_usd decimal(38, 9),
    short_usd decimal(38, 15),
    counted_usd_per_minute decimal(28, 15) not null
);
comment on column rollup.organisation_days.opened_at is
'up to which instant opening_usd was asked for: at or before the day''s start; that itself on the first of a month';
comment on column rollup.organisation_days.closed_at is
'up to which instant closing_usd was asked for: five minutes after the day or later, or the last one before that';
comment on column rollup.organisation_days.short_usd is 'most that closing_usd may miss of the day';
comment on column rollup.organisation_days.counted_usd_per_minute is
'the highest price of each resource that the counters list around the day, together';

-- One row per UTC day, answered model and usage_source.
create table if not exists rollup.token_days (
    utc_day date not null,
    model varchar,
    usage_source varchar not null,
    requests bigint not null,
    refused_requests bigint not null,
    prompt_tokens bigint,
    completion_tokens bigint,
    cached_tokens bigint,
    cached_known_prompt_tokens bigint,
    reasoning_tokens bigint,
    reasoning_known_completion_tokens bigint
);
comment on column rollup.token_days.refused_requests is
'of requests: never reached an engine, or the engine answered with an error status';
comment on column rollup.token_days.cached_known_prompt_tokens is
'prompt tokens of the rows where cached_tokens is known';

-- One row per UTC day and number of prompt tokens: the requests of that size, for prices that depend on it.
create table if not exists rollup.request_size_days (
    utc_day date not null,
    prompt_tokens bigint,
    requests bigint not null,
    completion_tokens bigint not null,
    cached_tokens bigint not null,
    cached_known_requests bigint not null
);
comment on column rollup.request_size_days.prompt_tokens is 'of each of the requests; null where no usage came';
comment on column rollup.request_size_days.completion_tokens is 'of all these requests, reasoning included';
comment on column rollup.request_size_days.cached_tokens is 'of all these requests, where known';
-- One row per UTC day, machine and answered model. Sums to rollup.token_days exactly.
create table if not exists rollup.vm_token_days (
    utc_day date not null,
    vm_id bigint,
    model varchar,
    requests bigint not null,
    prompt_tokens bigint,
    completion_tokens bigint
);
-- One row per UTC day, machine and life of its engine: vLLM's own token counters beside the request log.
create table if not exists rollup.engine_days (
    utc_day date not null,
    vm_id bigint,
    process_started_at timestamptz,
    processes bigint not null,
    upstream varchar,
    watched_from timestamptz not null,
    opened_at timestamptz not null,
    closed_at timestamptz not null,
    scrapes bigint not null,
    engine_prompt_tokens bigint not null,
    engine_generation_tokens bigint not null,
    overhang_at timestamptz,
    overhang_tokens bigint not null,
    requests bigint not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    choices_tokens bigint not null,
    aborted_prefill_tokens bigint not null,
    sure_prompt_tokens bigint not null,
    sure_completion_tokens bigint not null,
    possible_prompt_tokens bigint not null,
    possible_completion_tokens bigint not null,
    partial_requests bigint not null,
    unmeasured_requests bigint not null,
    exact_requests bigint not null,
    exact_prompt_tokens bigint not null,
    exact_completion_tokens bigint not null
);
comment on column rollup.engine_days.processes is 'that ran at the same time on the machine and are one row';
comment on column rollup.engine_days.watched_from is
'since when its counters are known: the start of its process, or the first scrape of one older than the log';
comment on column rollup.engine_days.opened_at is
'last scrape at or before the day''s first instant, else watched_from';
comment on column rollup.engine_days.closed_at is
'last scrape at or before the next day''s first instant; watched_from where its first scrape came after that';
comment on column rollup.engine_days.engine_prompt_tokens is
'what vllm:prompt_tokens_total moved by between opened_at and closed_at';
comment on column rollup.engine_days.overhang_at is
'first scrape of the same life after the day; null where there is none';
comment on column rollup.engine_days.overhang_tokens is 'what both counters moved by between closed_at and overhang_at';
comment on column rollup.engine_days.requests is 'that ended between opened_at and closed_at, canaries too';
comment on column rollup.engine_days.prompt_tokens is 'of these requests as logged: once for all choices';
comment on column rollup.engine_days.choices_tokens is
'prompts that the engine counts again for each further choice, of requests that lie wholly between the two scrapes';
comment on column rollup.engine_days.aborted_prefill_tokens is
'prompts of requests that ended before their first token: logged, and not counted by the engine';
comment on column rollup.engine_days.sure_prompt_tokens is
'least that requests wholly between the two scrapes moved the counter by';
comment on column rollup.engine_days.possible_prompt_tokens is
'most that they, and requests in flight at one of the scrapes, can have moved it by besides';
comment on column rollup.engine_days.unmeasured_requests is 'that reached the engine and have no usage at all';
comment on column rollup.engine_days.exact_requests is 'with final usage, running between its scrapes';
comment on column rollup.engine_days.exact_prompt_tokens is 'of these requests, times their choices';

-- One row per UTC day: what the request log tells of its own losses, and what vLLM's counters cannot bound.
create table if not exists rollup.log_days (
    utc_day date not null,
    segments bigint not null,
    lost_segments bigint not null,
    changed_segments bigint not null,
    rows_missing bigint not null,
    unended_requests bigint not null,
    dark_vms bigint not null,
    witnessed_tokens bigint not null,
    unwitnessed_tokens bigint not null,
    unbounded_requests bigint not null
);
comment on column rollup.log_days.segments is 'that began on the day';
comment on column rollup.log_days.lost_segments is
'gaps in the chains of segments that touch the day: what is there names one before it that nobody has read';
comment on column rollup.log_days.changed_segments is 'that are not what they were when they were sealed';
comment on column rollup.log_days.rows_missing is
'lines that numbers or seals of these segments tell of and that are not there or cannot be read, or cannot be true';
comment on column rollup.log_days.unended_requests is 'begun on the day, and neither ended nor given up in any segment';
comment on column rollup.log_days.dark_vms is
'machines that were on in a hole of the log which their counters do not bridge: what they made then is unknown';
comment on column rollup.log_days.witnessed_tokens is
'of requests that ended on the day while vLLM''s own counters were known; unwitnessed are the others';
comment on column rollup.log_days.unbounded_requests is
'without final usage and not witnessed: nothing bounds their tokens';

-- One row per UTC day, machine, life of its engine and cause: why vLLM's counters and the log differ.
create table if not exists rollup.token_residuals (
    utc_day date not null,
    vm_id bigint,
    process_started_at timestamptz,
    opened_at timestamptz not null,
    cause varchar not null,
    tokens bigint not null
);
comment on column rollup.token_residuals.cause is
'choices, aborted_prefill, in_flight, no_usage, lost_rows, past_the_proxy or not_in_the_engine';
comment on column rollup.token_residuals.tokens is 'engine minus logged; the causes of a life add up to it';

-- One row per UTC day and either cost line or token line: all that the two published queries read.
create table if not exists metric.inputs (
    utc_day date not null,
    line varchar not null,
    resource_type varchar,
    resource_id bigint,
    cost_kind varchar,
    cost_usd decimal(38, 15),
    model varchar,
    usage_source varchar,
    requests bigint,
    prompt_tokens bigint,
    completion_tokens bigint,
    cached_tokens bigint,
    reasoning_tokens bigint
);
comment on column metric.inputs.line is 'cost or tokens';

-- One row per day D: what was paid in the seven days that end with D.
create table if not exists metric.paid (
    utc_day date not null,
    paid_usd decimal(38, 15)
);

-- One row per day D: what was served in the seven days that end with D.
create table if not exists metric.served (
    utc_day date not null,
    served_tokens bigint,
    requests bigint,
    prompt_tokens bigint,
    completion_tokens bigint,
    cached_tokens bigint,
    reasoning_tokens bigint
);

-- One row per day D: the number.
create table if not exists metric.cost_per_mtok (
    utc_day date not null,
    window_start timestamptz not null,
    window_end timestamptz not null,
    paid_usd decimal(38, 15),
    served_tokens bigint,
    usd_per_million_tokens decimal(38, 12),
    requests bigint,
    prompt_tokens bigint,
    completion_tokens bigint,
    cached_tokens bigint,
    reasoning_tokens bigint
);
comment on column metric.cost_per_mtok.usd_per_million_tokens is
'1e6 * paid_usd / served_tokens, rounded half to even at 12 decimals; null when nothing was served';

-- One row per day D and cost_kind: the parts of the number, adding up to it exactly.
create table if not exists metric.cost_parts (
    utc_day date not null,
    cost_kind varchar not null,
    paid_usd decimal(38, 15) not null,
    usd_per_million_tokens decimal(38, 12)
);

-- One row per day D and answered model, and one with model null for all of them: percentiles by nearest rank.
create table if not exists metric.request_percentiles (
    utc_day date not null,
    model varchar,
    latency_requests bigint not null,
    latency_p50_microseconds bigint,
    latency_p90_microseconds bigint,
    latency_p99_microseconds bigint,
    first_token_requests bigint not null,
    first_token_p50_microseconds bigint,
    first_token_p90_microseconds bigint,
    first_token_p99_microseconds bigint,
    output_input_requests bigint not null,
    output_input_p10_ratio decimal(18, 6),
    output_input_p50_ratio decimal(18, 6),
    output_input_p90_ratio decimal(18, 6)
);
comment on column metric.request_percentiles.latency_requests is 'complete answers';
comment on column metric.request_percentiles.first_token_requests is 'streams whose first byte came';
comment on column metric.request_percentiles.output_input_requests is
'requests whose prompt and completion tokens are known';

-- One row per day D and machine, and one with vm_id null for what belongs to no machine. Costs add up to what was paid.
create table if not exists metric.vm_costs (
    utc_day date not null,
    vm_id bigint,
    cost_usd decimal(38, 15) not null,
    requests bigint not null,
    served_tokens bigint not null,
    usd_per_million_tokens decimal(38, 12),
    active_seconds decimal(18, 6),
    busy_seconds decimal(18, 6)
);

-- One row per day D and model. Where SPOTINFERENCE_MODELS is set, costs add up to what was paid exactly; else null.
create table if not exists metric.model_costs (
    utc_day date not null,
    model varchar not null,
    requests bigint not null,
    served_tokens bigint not null,
    own_usd decimal(38, 15),
    shared_usd decimal(38, 15),
    cost_usd decimal(38, 15),
    usd_per_million_tokens decimal(38, 12)
);
comment on column metric.model_costs.own_usd is 'of the machines that serve it';
comment on column metric.model_costs.shared_usd is 'its share of all else on the account';

-- One row per day D: figures behind the number and how much of the window was seen.
create table if not exists metric.figures (
    utc_day date not null,
    snapshot_coverage_ratio decimal(18, 6),
    exact_usage_ratio decimal(18, 6),
    unmeasured_requests bigint,
    unplaced_tokens bigint,
    duty_cycle_ratio decimal(18, 6),
    powered_ratio decimal(18, 6),
    cold_starts bigint,
    cold_start_seconds decimal(18, 6),
    cold_start_usd decimal(38, 15),
    failed_cold_starts bigint,
    failed_cold_start_seconds decimal(18, 6),
    failed_cold_start_usd decimal(38, 15),
    cache_hit_ratio decimal(18, 6),
    cache_hit_known_ratio decimal(18, 6),
    reasoning_ratio decimal(18, 6),
    reasoning_known_ratio decimal(18, 6),
    output_input_ratio decimal(18, 6),
    tokens_per_busy_second decimal(18, 6),
    usd_per_million_prompt_tokens decimal(38, 12),
    usd_per_million_completion_tokens decimal(38, 12),
    usd_per_million_visible_tokens decimal(38, 12),
    usd_per_request decimal(38, 12),
    answered_requests bigint,
    days_reconciled bigint,
    days_final bigint,
    residual_usd decimal(38, 15),
    unattributed_usd decimal(38, 15)
);
comment on column metric.figures.unplaced_tokens is
'of those served: on machines that the log does not name. Where there are any, duty, wakes and busy time are null';
comment on column metric.figures.duty_cycle_ratio is 'of ACTIVE GPU-seconds; a machine without a GPU has none';
comment on column metric.figures.failed_cold_starts is 'of cold_starts: the engine never became ready';
comment on column metric.figures.cache_hit_known_ratio is 'of prompt tokens: those of requests whose cached are known';
comment on column metric.figures.reasoning_known_ratio is
'of completion tokens: those of requests whose reasoning is known';
comment on column metric.figures.usd_per_million_visible_tokens is
'of completion tokens without those that vLLM told apart as reasoning; null where it told none of any';
comment on column metric.figures.answered_requests is 'that reached an engine and were not refused by it';
comment on column metric.figures.days_reconciled is
'of the seven, days with a book that agrees with our counters where somebody looked';
comment on column metric.figures.residual_usd is
'sum of |book - our own ledger| of the days with a book, before it was booked; null when there is none';

-- One row per day D, basket and member: our requests of the seven days that end with D at the member's list prices.
create table if not exists metric.list_price_comparison (
    utc_day date not null,
    basket varchar not null,
    basket_version bigint not null,
    as_of date not null,
    prices_version varchar not null,
    provider varchar not null,
    model varchar not null,
    model_name varchar not null,
    workload_usd decimal(38, 15),
    usd_per_million_tokens decimal(38, 12),
    is_cheapest boolean not null,
    unpriced_reason varchar
);
comment on column metric.list_price_comparison.as_of is 'day of our own copy of the prices';
comment on column metric.list_price_comparison.workload_usd is
'all requests with known tokens, each priced by its size';
comment on column metric.list_price_comparison.is_cheapest is 'of its basket; the first by name where several are';

-- One row per day D and basket: the members' prices for our requests, and what was priced.
create table if not exists metric.list_price_baskets (
    utc_day date not null,
    basket varchar not null,
    basket_version bigint not null,
    as_of date not null,
    prices_version varchar not null,
    members bigint not null,
    unpriced_members bigint not null,
    min_usd_per_million_tokens decimal(38, 12),
    median_usd_per_million_tokens decimal(38, 12),
    max_usd_per_million_tokens decimal(38, 12),
    requests bigint not null,
    unpriced_requests bigint not null,
    prompt_tokens bigint not null,
    completion_tokens bigint not null,
    cached_tokens bigint not null,
    cached_known_requests bigint not null
);
comment on column metric.list_price_baskets.unpriced_requests is 'reached an engine and no usage came; not in requests';

-- One row per day D: what the machines cost while they are on, and what they serve while they are busy.
create table if not exists metric.load_costs (
    utc_day date not null,
    running_usd decimal(38, 15),
    fixed_usd decimal(38, 15),
    served_tokens bigint,
    active_gpu_seconds decimal(18, 6),
    busy_gpu_seconds decimal(18, 6),
    usd_per_active_gpu_second decimal(38, 12),
    tokens_per_busy_gpu_second decimal(18, 6),
    fixed_usd_per_million_tokens decimal(38, 12)
);
comment on column metric.load_costs.running_usd is 'busy and idle';
comment on column metric.load_costs.fixed_usd is 'cold_start, parked, storage, network and other; credit is in neither';

-- One row per day D, basket and price of it: the duty cycles from which on our own machines are cheaper.
create table if not exists metric.break_even (
    utc_day date not null,
    basket varchar not null,
    price_of varchar not null,
    usd_per_million_tokens decimal(38, 12),
    duty_cycle_ratio decimal(18, 6),
    is_reachable boolean,
    what_if_duty_cycle_ratio decimal(18, 6),
    is_what_if_reachable boolean
);
comment on column metric.break_even.price_of is 'min or median of the basket';
comment on column metric.break_even.duty_cycle_ratio is 'fixed costs per token held as measured';
comment on column metric.break_even.is_reachable is 'false: never, at no duty cycle up to 1; null: not known';
comment on column metric.break_even.what_if_duty_cycle_ratio is
'fixed costs spread over the tokens: where metric.what_if is the price';
comment on column metric.break_even.is_what_if_reachable is 'false: never, at no duty cycle up to 1; null: not known';

-- One row per day D and supposed duty cycle: the number that it would give.
create table if not exists metric.what_if (
    utc_day date not null,
    duty_cycle_ratio decimal(18, 6) not null,
    is_measured boolean not null,
    usd_per_million_tokens decimal(38, 6)
);
comment on column metric.what_if.is_measured is 'the duty cycle that the window had';
-- One row per day D: the request log against vLLM's own counters over the seven days that end with D.
create table if not exists metric.coverage (
    utc_day date not null,
    engine_lives bigint not null,
    engine_tokens bigint not null,
    unexplained_tokens bigint not null,
    token_coverage_ratio decimal(18, 6),
    witnessed_ratio decimal(18, 6),
    day_engine_tokens bigint not null,
    day_unexplained_tokens bigint not null,
    day_unexplained_ratio decimal(18, 6),
    lost_segments bigint not null,
    rows_missing bigint not null
);
comment on column metric.coverage.engine_lives is 'rows of rollup.engine_days: 0 where no counters are known';
comment on column metric.coverage.unexplained_tokens is
'of lost_rows, past_the_proxy and not_in_the_engine, all taken as positive';
comment on column metric.coverage.token_coverage_ratio is
'tokens that both the log and the engines have / tokens that either has; null where there are none';
comment on column metric.coverage.witnessed_ratio is
'logged tokens of time in which vLLM''s own counters are known / logged tokens';
comment on column metric.coverage.day_unexplained_ratio is 'of the day D alone: unexplained / engine tokens';

-- One row per day D: what the true figure cannot be below or above of.
create table if not exists metric.bounds (
    utc_day date not null,
    inside_usd decimal(38, 15),
    most_usd decimal(38, 15),
    exact_tokens bigint not null,
    unlogged_tokens bigint not null,
    largest_tokens bigint
);
comment on column metric.bounds.inside_usd is 'paid without what may lie beyond the ends of the window';
comment on column metric.bounds.most_usd is
'paid with all that may lie inside them or is in the organisation''s total alone; null while some of it is not known';
comment on column metric.bounds.exact_tokens is
'of requests with vLLM''s final usage, less what the log has beyond the engines'' own counters';
comment on column metric.bounds.unlogged_tokens is
'most tokens that vLLM''s counters hold and that no row of the log accounts for';
comment on column metric.bounds.largest_tokens is
'served + unlogged; null where requests or machines are in the dark and nothing bounds them';
