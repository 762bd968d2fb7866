-- The trace that a request belongs to, as W3C's `traceparent`; empty for none.
ALTER TABLE request ADD COLUMN trace text NOT NULL DEFAULT '';
ALTER TABLE webhook ADD COLUMN trace text NOT NULL DEFAULT '';
