-- For the worker of vps-secrets-deployer; run as superuser in the database app. May be run again.
BEGIN;

-- Owns the functions. Nobody can log in as it, and nobody is a member of it.
DO $body$ BEGIN IF to_regrole('"rotation_definer"') IS NULL THEN
    CREATE ROLE "rotation_definer" LOGIN;
END IF; END $body$;
ALTER ROLE rotation_definer NOLOGIN INHERIT CREATEROLE;
GRANT pg_signal_backend TO rotation_definer;

-- The worker logs in as this one: \password "vps_rotator"
DO $body$ BEGIN IF to_regrole('"vps_rotator"') IS NULL THEN
    CREATE ROLE "vps_rotator" LOGIN;
END IF; END $body$;
ALTER ROLE "vps_rotator" LOGIN NOSUPERUSER NOCREATEROLE NOCREATEDB NOREPLICATION NOBYPASSRLS;

CREATE SCHEMA IF NOT EXISTS rotation;
REVOKE ALL ON SCHEMA rotation FROM PUBLIC;
GRANT USAGE ON SCHEMA rotation TO "vps_rotator", rotation_definer;
CREATE TABLE IF NOT EXISTS rotation.managed (role name PRIMARY KEY);
REVOKE ALL ON rotation.managed FROM PUBLIC;
GRANT SELECT ON rotation.managed TO "vps_rotator", rotation_definer;

-- Raises an error unless the role is on the list and has no more rights than a log-in.
CREATE OR REPLACE FUNCTION rotation.check_role(which name) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    IF NOT EXISTS (SELECT FROM rotation.managed AS m WHERE m.role = which) THEN
        RAISE insufficient_privilege USING MESSAGE = 'not a role of the application';
    END IF;
    IF EXISTS (SELECT FROM pg_roles AS r WHERE r.rolname = which
               AND (r.rolsuper OR r.rolcreaterole OR r.rolreplication OR r.rolbypassrls)) THEN
        RAISE insufficient_privilege USING MESSAGE = 'a role with more rights than a log-in';
    END IF;
END $body$;

-- Password and label together, or neither. The label says which secret has the password.
CREATE OR REPLACE FUNCTION rotation.set_verifier(which name, verifier text, label text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM rotation.check_role(which);
    IF verifier IS NULL OR verifier !~ '^SCRAM-SHA-256\$[0-9]{4,7}:[A-Za-z0-9+/]{22}==\$[A-Za-z0-9+/]{43}=:[A-Za-z0-9+/]{43}=$' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'not a SCRAM verifier';
    END IF;
    IF label IS NULL OR label !~ '^(secret [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|locked) of [A-Za-z0-9._-]{1,64}/[A-Za-z0-9._-]{1,200}$' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'not a label';
    END IF;
    EXECUTE format('ALTER ROLE %I LOGIN PASSWORD %L', which, verifier);
    EXECUTE format('COMMENT ON ROLE %I IS %L', which, label);
END $body$;

-- Ends a former password, if it is still the one of this label. Who is logged in stays.
CREATE OR REPLACE FUNCTION rotation.clear_password(which name, label text) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM rotation.check_role(which);
    IF shobj_description(to_regrole(quote_ident(which)), 'pg_authid') IS DISTINCT FROM label THEN
        RETURN false;
    END IF;
    EXECUTE format('ALTER ROLE %I PASSWORD NULL', which);
    RETURN true;
END $body$;

-- Emergency: nobody logs in any more. Sessions end by end_sessions, after this is committed.
CREATE OR REPLACE FUNCTION rotation.lock_role(which name, label text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM rotation.check_role(which);
    IF label IS NULL OR label !~ '^(secret [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|locked) of [A-Za-z0-9._-]{1,64}/[A-Za-z0-9._-]{1,200}$' THEN
        RAISE invalid_parameter_value USING MESSAGE = 'not a label';
    END IF;
    EXECUTE format('ALTER ROLE %I NOLOGIN PASSWORD NULL', which);
    EXECUTE format('COMMENT ON ROLE %I IS %L', which, label);
END $body$;

-- Returns how many sessions of the role there were.
CREATE OR REPLACE FUNCTION rotation.end_sessions(which name) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $body$
BEGIN
    PERFORM rotation.check_role(which);
    RETURN (SELECT count(pg_terminate_backend(a.pid)) FROM pg_stat_activity AS a WHERE a.usename = which);
END $body$;
ALTER FUNCTION rotation.check_role(name) OWNER TO rotation_definer;
REVOKE ALL ON FUNCTION rotation.check_role(name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rotation.check_role(name) TO rotation_definer;
ALTER FUNCTION rotation.set_verifier(name, text, text) OWNER TO rotation_definer;
REVOKE ALL ON FUNCTION rotation.set_verifier(name, text, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rotation.set_verifier(name, text, text) TO "vps_rotator";
ALTER FUNCTION rotation.clear_password(name, text) OWNER TO rotation_definer;
REVOKE ALL ON FUNCTION rotation.clear_password(name, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rotation.clear_password(name, text) TO "vps_rotator";
ALTER FUNCTION rotation.lock_role(name, text) OWNER TO rotation_definer;
REVOKE ALL ON FUNCTION rotation.lock_role(name, text) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rotation.lock_role(name, text) TO "vps_rotator";
ALTER FUNCTION rotation.end_sessions(name) OWNER TO rotation_definer;
REVOKE ALL ON FUNCTION rotation.end_sessions(name) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION rotation.end_sessions(name) TO "vps_rotator";

-- The application of vps-prod-001: without a password nobody can log in yet.
DO $body$ BEGIN IF to_regrole('"app_owner"') IS NULL THEN
    CREATE ROLE "app_owner" LOGIN;
END IF; END $body$;
ALTER ROLE "app_owner" NOLOGIN;
DO $body$ BEGIN IF to_regrole('"app_a"') IS NULL THEN
    CREATE ROLE "app_a" LOGIN;
END IF; END $body$;
DO $body$ BEGIN IF to_regrole('"app_b"') IS NULL THEN
    CREATE ROLE "app_b" LOGIN;
END IF; END $body$;
GRANT "app_owner" TO "app_a", "app_b";
-- Whatever either makes belongs to both: each log-in becomes the owner.
ALTER ROLE "app_a" SET role = 'app_owner';
ALTER ROLE "app_b" SET role = 'app_owner';
INSERT INTO rotation.managed VALUES ('app_a'), ('app_b') ON CONFLICT DO NOTHING;
DO $body$ BEGIN
    -- from 16 on, who alters a role needs the right to administer it as well
    IF current_setting('server_version_num')::int >= 160000 THEN
        EXECUTE 'GRANT "app_a", "app_b" TO rotation_definer WITH ADMIN TRUE, INHERIT FALSE, SET FALSE';
    END IF;
END $body$;

COMMIT;
