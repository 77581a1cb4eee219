-- Catalogs of the tenants. Ids sort and compare by code point everywhere: COLLATE "C" of UTF-8.

CREATE TABLE tenants (
    tenant_id  text COLLATE "C" PRIMARY KEY,
    timezone   text NOT NULL DEFAULT 'UTC',
    version    bigint NOT NULL DEFAULT 0,  -- increases with every change of the tenant's catalog
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE offers (
    tenant_id text COLLATE "C" NOT NULL,
    id        text COLLATE "C" NOT NULL,
    name      text,
    issue     text,
    "group"   text,
    status    text,
    priority  integer,
    PRIMARY KEY (tenant_id, id)
);

-- The offer and the channel need not be registered: no foreign keys.
CREATE TABLE creatives (
    tenant_id       text COLLATE "C" NOT NULL,
    id              text COLLATE "C" NOT NULL,
    name            text,
    offer_id        text COLLATE "C",
    channel_id      text COLLATE "C",
    template_type   text,
    ab_test_variant text,
    weight          double precision,
    status          text,
    PRIMARY KEY (tenant_id, id)
);

CREATE TABLE channels (
    tenant_id    text COLLATE "C" NOT NULL,
    id           text COLLATE "C" NOT NULL,
    name         text,
    channel_type text,
    status       text,
    PRIMARY KEY (tenant_id, id)
);

-- Tenant '*', which is not a legal tenant id, has the system types, which every tenant has.
CREATE TABLE outcome_types (
    tenant_id      text COLLATE "C" NOT NULL,
    key            text COLLATE "C" NOT NULL,
    name           text NOT NULL,
    classification text NOT NULL CHECK (classification IN ('positive', 'negative', 'neutral')),
    category       text NOT NULL,
    PRIMARY KEY (tenant_id, key)
);

INSERT INTO outcome_types (tenant_id, key, name, classification, category) VALUES
    ('*', 'impression', 'Impression', 'neutral', 'impression'),
    ('*', 'not_presented', 'Not presented', 'neutral', 'impression'),
    ('*', 'expired', 'Expired', 'neutral', 'impression'),
    ('*', 'click', 'Click', 'positive', 'response'),
    ('*', 'accept', 'Accept', 'positive', 'response'),
    ('*', 'convert', 'Convert', 'positive', 'response'),
    ('*', 'requested_info', 'Requested info', 'positive', 'response'),
    ('*', 'dismiss', 'Dismiss', 'negative', 'response'),
    ('*', 'not_interested', 'Not interested', 'negative', 'response'),
    ('*', 'deferred', 'Deferred', 'neutral', 'response');

CREATE TABLE api_keys (
    id         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant_id  text COLLATE "C" NOT NULL,
    role       text NOT NULL CHECK (role IN ('viewer', 'editor', 'admin')),
    key_hash   bytea NOT NULL UNIQUE,  -- HMAC-SHA-256 of the key; the key itself is not stored
    prefix     text NOT NULL,          -- first characters of the key, to tell keys apart
    created_at timestamptz NOT NULL DEFAULT now(),
    revoked_at timestamptz
);

CREATE INDEX api_keys_tenant ON api_keys (tenant_id);
