-- request: … num_tokens truncated
--
-- How many tokens the answer has, NULL where nobody counted, and 1 where its limit cut it.

ALTER TABLE request ADD COLUMN num_tokens INTEGER;
ALTER TABLE request ADD COLUMN truncated INTEGER NOT NULL DEFAULT 0;
