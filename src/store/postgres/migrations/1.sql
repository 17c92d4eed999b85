CREATE TABLE tokens (
    id UUID PRIMARY KEY,
    digest BYTEA NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    user_id TEXT COLLATE "C" NOT NULL,
    name TEXT NOT NULL,
    class TEXT NOT NULL,
    scopes TEXT,
    roles TEXT,
    allowed_ips TEXT,
    metadata TEXT,
    hint TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_ip TEXT,
    created_by UUID,
    parent UUID,
    limits TEXT,
    quota_period TEXT,
    honeytoken BOOLEAN NOT NULL,
    rolling BOOLEAN NOT NULL,
    hard_end BIGINT,
    disabled_at BIGINT,
    revoked_at BIGINT,
    successor UUID,
    revision BIGINT NOT NULL,
    seal BYTEA NOT NULL,
    expires_at BIGINT,
    expires_seal BYTEA NOT NULL,
    warn_from BIGINT DEFAULT 0
);
CREATE INDEX tokens_user ON tokens (user_id, id DESC);
CREATE INDEX tokens_living ON tokens (user_id, expires_at) WHERE revoked_at IS NULL;
-- Of those that are dead there may be any number, so nothing must lead to both.
CREATE INDEX tokens_children ON tokens (parent, expires_at) WHERE parent IS NOT NULL AND revoked_at IS NULL;
CREATE INDEX tokens_dead_children ON tokens (parent) WHERE parent IS NOT NULL AND revoked_at IS NOT NULL;
CREATE INDEX tokens_created_by ON tokens (created_by) WHERE created_by IS NOT NULL;
CREATE INDEX tokens_warn_from ON tokens (warn_from)
    WHERE warn_from IS NOT NULL AND expires_at IS NOT NULL AND revoked_at IS NULL AND successor IS NULL;

-- Apart, so that counting a use rewrites a short row, in place where its page has room.
CREATE TABLE usage (
    id UUID PRIMARY KEY REFERENCES tokens (id) ON DELETE CASCADE,
    last_used BIGINT,
    last_used_ip TEXT,
    request_count BIGINT NOT NULL,
    quota_period TEXT,
    quota_since BIGINT,
    quota_count BIGINT,
    habits TEXT,
    seal BYTEA NOT NULL
) WITH (fillfactor = 70);

-- Whoever ever had a token, but for those who are made up.
CREATE TABLE owners (
    user_id TEXT COLLATE "C" PRIMARY KEY
);

CREATE TABLE users (
    user_id TEXT COLLATE "C" PRIMARY KEY,
    status TEXT NOT NULL,
    not_before BIGINT,
    seal BYTEA NOT NULL
);

CREATE TABLE revoked_jwts (
    id BYTEA PRIMARY KEY,
    until BIGINT NOT NULL,
    seal BYTEA NOT NULL
);
CREATE INDEX revoked_jwts_until ON revoked_jwts (until);

-- Numbers are given out before transactions end, so their order is not that in which changes come to be seen;
-- with the transaction's own number that can be told.
CREATE TABLE changes (
    n BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction BIGINT NOT NULL,
    at BIGINT NOT NULL,
    digest BYTEA NOT NULL
);
CREATE INDEX changes_transaction ON changes (transaction);
CREATE INDEX changes_at ON changes (at);

CREATE TABLE audit (
    n BIGINT PRIMARY KEY,
    version INTEGER NOT NULL,
    at BIGINT NOT NULL,
    event TEXT NOT NULL,
    alert BOOLEAN NOT NULL,
    outcome TEXT NOT NULL,
    actor TEXT COLLATE "C",
    actor_email TEXT,
    user_id TEXT COLLATE "C",
    token_id TEXT COLLATE "C",
    client_ip TEXT,
    request_id TEXT,
    refusal TEXT,
    reason TEXT,
    count BIGINT,
    hash BYTEA NOT NULL
);
CREATE INDEX audit_at ON audit (at, n);
CREATE INDEX audit_event ON audit (event, n);
CREATE INDEX audit_outcome ON audit (outcome, n);
CREATE INDEX audit_actor ON audit (actor, n) WHERE actor IS NOT NULL;
CREATE INDEX audit_user ON audit (user_id, n) WHERE user_id IS NOT NULL;
CREATE INDEX audit_token ON audit (token_id, n) WHERE token_id IS NOT NULL;

CREATE TABLE audit_chain (
    n INTEGER PRIMARY KEY CHECK (n = 1),
    anchor BIGINT NOT NULL,
    anchor_hash BYTEA NOT NULL,
    head BIGINT NOT NULL,
    head_hash BYTEA NOT NULL
);
INSERT INTO audit_chain VALUES (1, 0, decode(repeat('00', 32), 'hex'), 0, decode(repeat('00', 32), 'hex'));

CREATE TABLE probe (
    n INTEGER PRIMARY KEY CHECK (n = 1),
    beats INTEGER NOT NULL
);
INSERT INTO probe VALUES (1, 0);
