#!/usr/bin/env bash
# Build the image, push it, and write the Flex Template that starts it.
#   PROJECT  REGION  BUCKET  as Terraform printed them; TAG, 1 if unset
#   EXTRAS   gcp,gpu if unset; gcp for workers without a GPU
set -euo pipefail
: "${PROJECT:?}" "${REGION:?}" "${BUCKET:?}"
here=$(cd "$(dirname "$0")" && pwd)
image="$REGION-docker.pkg.dev/$PROJECT/featuretap/dataflow:${TAG:-1}"

docker build --file "$here/../docker/Dockerfile" --target dataflow \
  --build-arg "EXTRAS=${EXTRAS:-gcp,gpu}" --tag "$image" "$here/../.."
docker push "$image"
gcloud dataflow flex-template build "gs://$BUCKET/templates/featuretap.json" \
  --project "$PROJECT" --image "$image" --sdk-language PYTHON \
  --metadata-file "$here/metadata.json"
echo "$image"
