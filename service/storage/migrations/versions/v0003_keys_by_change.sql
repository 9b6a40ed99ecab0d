-- Which transaction changed a row last, so that processes which hold the table in memory read changes only
-- (docs/decisions/0015-keys-by-change.md). A transaction's id orders changes as snapshots see them: a time or a version
-- misses what began before a reading and is committed after it. Rows of such a table are ended, not deleted.
ALTER TABLE clients ADD COLUMN changed_xid xid8 NOT NULL DEFAULT pg_current_xact_id();
ALTER TABLE api_keys ADD COLUMN changed_xid xid8 NOT NULL DEFAULT pg_current_xact_id();

CREATE INDEX clients_changed ON clients (changed_xid, id);
CREATE INDEX api_keys_changed ON api_keys (changed_xid, id);

CREATE FUNCTION stamp_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.changed_xid := pg_current_xact_id();
    RETURN NEW;
END
$$;
CREATE TRIGGER clients_stamp_change BEFORE INSERT OR UPDATE ON clients
    FOR EACH ROW EXECUTE FUNCTION stamp_change();
CREATE TRIGGER api_keys_stamp_insert BEFORE INSERT ON api_keys
    FOR EACH ROW EXECUTE FUNCTION stamp_change();
-- That a key is in use is written every minute, and no change of what it may do.
CREATE TRIGGER api_keys_stamp_change BEFORE UPDATE ON api_keys
    FOR EACH ROW WHEN (to_jsonb(OLD) - 'last_used_at' IS DISTINCT FROM to_jsonb(NEW) - 'last_used_at')
    EXECUTE FUNCTION stamp_change();
