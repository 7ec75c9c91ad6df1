#!/bin/sh
# Put one job on record, wait for its end, and print it: three requests with curl.
#
#   sh wait.sh http://127.0.0.1:8081 API_TOKEN SOURCE JOB_ID MODALITY
set -eu
api=$1 token=$2 job=$1/v1/jobs/$3/$4 modality=$5

curl -sS --fail-with-body -X PUT "$job" -H "Authorization: Bearer $token" -d "{\"modality\": \"$modality\"}" >/dev/null

# 200 as soon as the job has ended, 202 as it is when the time is up.
while :; do
  code=$(curl -sS -o /dev/null -w '%{http_code}' "$job/wait?timeout_s=30" -H "Authorization: Bearer $token")
  case $code in
    200) break ;;
    202) echo "$4 is still pending" >&2 ;;
    *) echo "answered $code" >&2; exit 1 ;;
  esac
done
curl -sS --fail-with-body "$job" -H "Authorization: Bearer $token"
echo
