-- The adapter that answers the key's requests unless they name another; empty for none.
ALTER TABLE api_key ADD COLUMN adapter text NOT NULL DEFAULT '';
