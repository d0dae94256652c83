#!/bin/sh
# TorchServe as its manual does it: `torchserve_client.sh ADDRESS IMAGE.png...`, one `curl -T` an image; prints the answers.
address=$1
shift
for image in "$@"; do
    curl --silent --show-error --fail-with-body -T "$image" "$address/predictions/lenet5" || exit 1
    echo
done
