-- api_key: … adapter
--
-- The adapter that answers the key's requests unless they name another; empty for none.

ALTER TABLE api_key ADD COLUMN adapter TEXT NOT NULL DEFAULT '';
