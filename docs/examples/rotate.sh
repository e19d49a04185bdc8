#!/bin/bash
# Rotates one secret of a VPS, as the deployment does; the new value comes on standard input, byte for byte.
#   openssl rand -base64 48 | ./rotate.sh JWT_SECRET
# VPS_ID, CONTAINER (its reference), USER_ID (the Keystone user of the VPS) and TOKEN (of the deployment's own
# account) are in the environment. docs/provisioning.md says why the steps have this order.
set -euo pipefail
name=$VPS_ID/$1 barbican=${CONTAINER%/containers/*}
json='Content-Type: application/json' bytes='Content-Type: application/octet-stream'

call() { # METHOD URL [curl's options]; the token is on no command line
  curl --silent --show-error --fail-with-body --request "$1" --header @<(printf 'X-Auth-Token: %s' "$TOKEN") "$2" "${@:3}"
}
refs() { python3 -c 'import json, sys
for entry in json.load(sys.stdin)["secret_refs"]: entry["name"] == sys.argv[1] and print(entry["secret_ref"])' "$name"; }
entry() { printf '{"name": "%s", "secret_ref": "%s"}' "$name" "$1"; }

old=$(call GET "$CONTAINER" --header 'Accept: application/json' | refs)
new=$(call POST "$barbican/secrets" --header "$json" --data "{\"name\": \"$name\", \"secret_type\": \"opaque\"}" |
  python3 -c 'import json, sys; print(json.load(sys.stdin)["secret_ref"])')
call PUT "$new/acl" --header "$json" --data "{\"read\": {\"users\": [\"$USER_ID\"], \"project-access\": false}}" >/dev/null
call PUT "$new" --header "$bytes" --data-binary @- # standard input
call POST "$CONTAINER/secrets" --header "$json" --data "$(entry "$new")" >/dev/null
for ref in $old; do
  call DELETE "$CONTAINER/secrets" --header "$json" --data "$(entry "$ref")"
  call DELETE "$ref"
done
echo "$name: $new"
