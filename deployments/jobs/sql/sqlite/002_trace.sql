-- request: … trace
-- webhook: … trace
--
-- The trace that a request belongs to, as W3C's `traceparent`; empty for none.

ALTER TABLE request ADD COLUMN trace TEXT NOT NULL DEFAULT '';
ALTER TABLE webhook ADD COLUMN trace TEXT NOT NULL DEFAULT '';
