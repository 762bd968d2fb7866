-- How many tokens the answer has, NULL where nobody counted, and 1 where its limit cut it.
ALTER TABLE request ADD COLUMN num_tokens integer, ADD COLUMN truncated integer NOT NULL DEFAULT 0;
