-- Times are milliseconds since 1970, 0 where there is none.
-- +goose Up
create table ib_invocation (
    id text primary key,
    state text not null,
    reason text not null default '',
    subject text not null,
    group_name text not null default '',
    attempt integer not null default 1,
    priority integer not null default 0,
    timeout_ms bigint not null default 0,
    queue_ttl_ms bigint not null default 0,
    submitted_at bigint not null,
    started_at bigint not null default 0,
    ended_at bigint not null default 0,
    not_before bigint not null default 0,       -- is not claimed before
    queue_until bigint not null default 0,      -- expires unless it has started by then
    build_params text not null,                 -- masked
    labels text not null default '',            -- JSON; ib_label is for searching
    images text not null default '',            -- JSON; ib_invocation_image is for searching
    response text not null default '',
    failure text not null default '',
    result text not null default '',
    retry_of text not null default '',
    trace_parent text not null default '',
    cancel_requested boolean not null default false,
    webhook_url text not null default '',
    webhook_secret blob,                       -- sealed
    has_secrets boolean not null default false,
    sealed blob,                               -- the whole document; null once it has ended
    idempotency_key text not null default '',
    idempotency_hash blob,
    lease_owner text not null default '',
    lease_until bigint not null default 0,
    token bigint not null default 0,            -- grows with each claim; writes of older ones are refused
    again text not null default '',             -- why this is not the first attempt
    next_seq bigint not null default 1,         -- of the log
    log_bytes bigint not null default 0,
    log_cut boolean not null default false
);
create unique index ib_invocation_key on ib_invocation (subject, idempotency_key) where idempotency_key <> '';
create index ib_invocation_turn on ib_invocation (subject, priority desc, submitted_at, id) where state = 'pending';
create index ib_invocation_expiry on ib_invocation (queue_until) where state = 'pending' and queue_until > 0;
create index ib_invocation_running on ib_invocation (subject) where state = 'in_progress';
create index ib_invocation_newest on ib_invocation (submitted_at, id);
create index ib_invocation_subject on ib_invocation (subject, submitted_at, id);
create index ib_invocation_group on ib_invocation (group_name, submitted_at, id) where group_name <> '';
create index ib_invocation_state on ib_invocation (state, ended_at);

create table ib_invocation_image (
    invocation_id text not null,
    ref text not null,
    primary key (invocation_id, ref)
);
create index ib_invocation_image_ref on ib_invocation_image (ref, invocation_id);

create table ib_label (
    invocation_id text not null,
    name text not null,
    value text not null,
    primary key (invocation_id, name)
);
create index ib_label_value on ib_label (name, value, invocation_id);

create table ib_subject (
    subject text primary key,
    last_started_at bigint not null
);

create table ib_log (
    invocation_id text not null,
    seq bigint not null,
    attempt integer not null,
    kind text not null,
    step text not null default '',
    at bigint not null,
    size integer not null,
    data blob not null,
    primary key (invocation_id, seq)
);
create index ib_log_steps on ib_log (invocation_id, seq) where kind <> 'out';

create table ib_session (
    id_hash blob primary key,
    principal text not null,
    csrf text not null,
    expires bigint not null
);
create index ib_session_expires on ib_session (expires);

create table ib_notice (
    seq integer primary key autoincrement,
    origin text not null,                       -- the process that tells it
    kind text not null,
    invocation_id text not null,
    at bigint not null
);
create index ib_notice_at on ib_notice (at);

-- +goose Down
drop table ib_notice;
drop table ib_session;
drop table ib_log;
drop table ib_subject;
drop table ib_label;
drop table ib_invocation_image;
drop table ib_invocation;
