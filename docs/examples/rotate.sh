#!/bin/bash
# Rotates secrets of a VPS, as the deployment does. One, or several that belong together:
#   openssl rand -base64 48 | ./rotate.sh JWT_SECRET
#   ./rotate.sh DB_USER=user-file DB_PASSWORD=password-file
# Standard input is one value, less the one newline that a command ends its output with. A file's bytes are taken
# as they are, so a binary value comes from a file (or NAME=/dev/stdin). In the environment:
#   VPS_ID, CONTAINER (its reference), USER_ID (the Keystone user of the VPS), and of the deployment's own account
#   TOKEN, or OS_AUTH_URL (with /v3), OS_APPLICATION_CREDENTIAL_ID and OS_APPLICATION_CREDENTIAL_SECRET, or both:
#   with the second an expired token is replaced, once.
# Then touch the beacon, where there is one. docs/provisioning.md says why the steps have this order.
set -euo pipefail
export -n TOKEN OS_APPLICATION_CREDENTIAL_SECRET # for no command that is started here
json=application/json bytes=application/octet-stream TOKEN=${TOKEN:-}
declare -A value=() made=() lists=() old=() # lists: the name of the new entry; old: NAME|REFERENCE of each old one
names=() phase=start began=0 answer='' status=''

say() { echo "rotate.sh: $*" >&2; }
fail() { say "$*"; exit 1; }
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1" <<<"$answer"; }
entry() { printf '{"name": "%s", "secret_ref": "%s"}' "$1" "$2" | base64 -w0; }

request() { # METHOD URL [TYPE BODY-IN-BASE64]; sets answer and status. Neither token nor body is on a command line
  local headers=(--header "Accept: $json") output
  [[ -z ${4:-} ]] || headers+=(--header "Content-Type: $3" --data-binary @-)
  output=$(printf %s "${4:-}" | base64 -d |
    curl --silent --show-error --fail-with-body --max-time 15 --request "$1" "${headers[@]}" \
      --header @<(printf 'X-Auth-Token: %s' "$TOKEN") --write-out '\n%{http_code}' "$2" 2>&1) || true
  status=${output##*$'\n'} answer=${output%$'\n'*}
}
login() { # a new token, where the environment has a credential
  [[ ${OS_APPLICATION_CREDENTIAL_SECRET:-} ]] || return 1
  local body
  body=$(printf '{"auth": {"identity": {"methods": ["application_credential"], "application_credential":
    {"id": "%s", "secret": "%s"}}}}' "$OS_APPLICATION_CREDENTIAL_ID" "$OS_APPLICATION_CREDENTIAL_SECRET" | base64 -w0)
  TOKEN=$(printf %s "$body" | base64 -d |
    curl --silent --show-error --fail-with-body --max-time 15 --header "Content-Type: $json" --data-binary @- \
      --dump-header - --output /dev/null "${OS_AUTH_URL%/}/auth/tokens" |
    tr -d '\r' | sed -n 's/^x-subject-token: //Ip') && [[ $TOKEN ]]
}
call() { # STEP and what request takes; ALSO is a status that is as good as success
  request "${@:2}"
  if [[ $status == 401 ]]; then
    say "$1: the token is not valid (any more)"
    login || { say "no new login: set OS_APPLICATION_CREDENTIAL_ID, its SECRET and OS_AUTH_URL, or a new TOKEN"; return 1; }
    request "${@:2}"
  fi
  [[ $status == 2?? || $status == "${ALSO:-}" ]] || { say "$1 failed, HTTP $status: ${answer:0:300}"; return 1; }
}
finish() { # whatever ends this run: half a rotation is undone where it can be, and never left without a word
  local code=$? name left=()
  trap '' INT TERM HUP
  case $phase in
    making | listing)
      say "undoing: the VPS keeps its old values"
      for name in "${!made[@]}"; do
        { [[ $phase == making ]] || ALSO=404 call "remove the new entry $name" DELETE "$CONTAINER/secrets" $json \
          "$(entry "${lists[$name]}" "${made[$name]}")"; } &&
          ALSO=404 call "delete the new secret of $name" DELETE "${made[$name]}" || left+=("$name: ${made[$name]}")
      done
      [[ ${#left[@]} == 0 ]] && say "nothing of this run is left; run it again" && exit 1
      say "left in Barbican:" && printf '  %s\n' "${left[@]}" >&2
      [[ $phase == making ]] && say "no entry points to them; delete them, then run this again" && exit 1
      say "a name with two entries has its newest value 60 s from now. Run this again as soon as you can:" \
        "it replaces both" ;;
    removing)
      say "the new values are in force; of the old ones may be left:"
      for name in "${names[@]}"; do for was in ${old[$name]}; do echo "  $name: ${was#*|}" >&2; done; done
      say "run this again, with the same or new values: it removes every older entry of these names;" \
        "a secret without an entry is deleted by DELETE on its reference" ;;
    *) exit "$code" ;;
  esac
  exit 1
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

: "${VPS_ID:?is not set}" "${CONTAINER:?is not set}" "${USER_ID:?is not set}"
barbican=${CONTAINER%/containers/*}
for argument in "$@"; do
  name=${argument%%=*}
  [[ $name =~ ^[A-Za-z0-9_.-]+$ && -z ${value[$name]:-} ]] || fail "not a name, or twice: '$name'. Nothing was done"
  if [[ $argument == *=* ]]; then
    value[$name]=$(base64 -w0 -- "${argument#*=}") || fail "can't read ${argument#*=}. Nothing was done"
    [[ $(printf %s "${value[$name]}" | base64 -d | tail -c1 | od -An -tx1) != ' 0a' ]] ||
      say "$name: the file ends in a newline, which belongs to the value"
  elif [[ $# == 1 ]]; then
    value[$name]=$(python3 -c 'import sys; sys.stdout.buffer.write(sys.stdin.buffer.read().removesuffix(b"\n"))' | base64 -w0)
  else
    fail "several names need a file each: NAME=FILE NAME2=FILE2. Nothing was done"
  fi
  [[ ${value[$name]} ]] || fail "$name: the value is empty. Nothing was done"
  names+=("$name")
done
[[ ${#names[@]} -gt 0 ]] || fail "which? rotate.sh NAME <value, or rotate.sh NAME=FILE NAME2=FILE2 …"
[[ $TOKEN ]] || login || fail "no TOKEN, and no login. Nothing was done"

call "read the container" GET "$CONTAINER"
for name in "${names[@]}"; do
  # an entry NAME~K is one of NAME, and the highest K is the newest: so the new one gets a higher one, where there is any
  { read -r "lists[$name]" && read -r "old[$name]"; } < <(python3 -c 'import json, re, sys
name, k, old = sys.argv[1], 0, []
for entry in json.load(sys.stdin)["secret_refs"]:
    found = re.fullmatch(re.escape(name) + "(?:~([1-9][0-9]{0,14}))?", entry["name"] or "")
    if found:
        k, old = max(k, int(found[1] or 0)), [*old, entry["name"] + "|" + entry["secret_ref"]]
print(f"{name}~{k + 1}" if k else name, " ".join(old), sep="\n")' "$VPS_ID/$name" <<<"$answer") ||
    fail "the container is not as documented: ${answer:0:300}. Nothing was done"
done
phase=making
for name in "${names[@]}"; do # without a payload, then who may read, then the payload: nobody else ever could
  call "make the secret of $name" POST "$barbican/secrets" $json \
    "$(printf '{"name": "%s", "secret_type": "opaque"}' "$VPS_ID/$name" | base64 -w0)"
  made[$name]=$(field secret_ref)
  call "set the ACL of $name" PUT "${made[$name]}/acl" $json \
    "$(printf '{"read": {"users": ["%s"], "project-access": false}}' "$USER_ID" | base64 -w0)"
  call "write the value of $name" PUT "${made[$name]}" $bytes "${value[$name]}"
done
phase=listing began=$SECONDS
for name in "${names[@]}"; do # all of them before an old one goes: so the agent knows what belongs together
  ALSO=409 call "list the new value of $name" POST "$CONTAINER/secrets" $json "$(entry "${lists[$name]}" "${made[$name]}")"
  ((SECONDS - began < 45)) || fail "too slow: after 60 s the agent would take those that are listed without the others"
done
phase=removing
for name in "${names[@]}"; do
  for was in ${old[$name]}; do
    ALSO=404 call "remove the old entry of $name" DELETE "$CONTAINER/secrets" $json "$(entry "${was%%|*}" "${was#*|}")"
  done
done
for name in "${names[@]}"; do
  for was in ${old[$name]}; do ALSO=404 call "delete the old secret of $name" DELETE "${was#*|}"; done
done
phase=done
for name in "${names[@]}"; do echo "$VPS_ID/$name: ${made[$name]}"; done
