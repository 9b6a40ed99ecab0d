-- Where the trace of a message goes on after the queue: the `traceparent` (W3C) of its accept. NULL: it is not traced.
-- Every partition gets it, at once and without a rewrite; those that come are made like their table.
ALTER TABLE messages ADD COLUMN traceparent text;
