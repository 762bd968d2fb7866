#!/bin/sh
# One endpoint by curl, as fal's pages show it: a run, then submit, status and result.
# ENDPOINT, INPUT, BASE_URL and KEY are in the environment; prints the run's answer, and the job's.
set -eu
call() {
  curl --silent --show-error --fail-with-body \
    --header "Authorization: Key $KEY" --header "Content-Type: application/json" "$@"
}

call --request POST --url "$BASE_URL/run/$ENDPOINT" --data "$INPUT"
echo

response=$(call --request POST --url "$BASE_URL/queue/$ENDPOINT" --data "$INPUT")
REQUEST_ID=$(echo "$response" | grep -o '"request_id": *"[^"]*"' | sed 's/"request_id": *//; s/"//g')
requests="$BASE_URL/queue/fal-ai/florence-2-large/requests/$REQUEST_ID"
until call --request GET --url "$requests/status" | grep -q '"COMPLETED"'; do
  sleep 0.2
done
call --request GET --url "$requests"
echo
