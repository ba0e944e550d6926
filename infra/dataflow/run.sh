#!/usr/bin/env bash
# Start a job from the Flex Template: run.sh gs://BUCKET/job.toml [name=value …]
#   PROJECT  REGION  BUCKET  SERVICE_ACCOUNT  SUBNETWORK  as Terraform printed them; TAG
#   LAUNCHER  machine type of the launcher, n1-standard-4 if unset
# Each name=value is a parameter of metadata.json, such as machine_type=g2-standard-8.
set -euo pipefail
: "${PROJECT:?}" "${REGION:?}" "${BUCKET:?}" "${SERVICE_ACCOUNT:?}" "${SUBNETWORK:?}"
image="$REGION-docker.pkg.dev/$PROJECT/featuretap/dataflow:${TAG:-1}"
config=${1:?a config, gs://BUCKET/job.toml}
shift
parameters="config=$config~sdk_container_image=$image"
for parameter in "$@"; do parameters+="~$parameter"; done

gcloud dataflow flex-template run "featuretap-$(date -u +%Y%m%d-%H%M%S)" \
  --project "$PROJECT" --region "$REGION" \
  --template-file-gcs-location "gs://$BUCKET/templates/featuretap.json" \
  --parameters "^~^$parameters" \
  --temp-location "gs://$BUCKET/tmp" --staging-location "gs://$BUCKET/staging" \
  --service-account-email "$SERVICE_ACCOUNT" \
  --launcher-machine-type "${LAUNCHER:-n1-standard-4}" \
  --subnetwork "$SUBNETWORK" --disable-public-ips
