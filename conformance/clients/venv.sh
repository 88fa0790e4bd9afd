#!/bin/sh
# Makes a venv that holds exactly the pinned packages: venv.sh REQUIREMENTS FOLDER.  Does nothing when it is already made.
set -eu
requirements=$1
folder=$2
if cmp -s "$requirements" "$folder/requirements.txt"; then
    exit 0
fi
rm -rf "$folder"
python3 -m venv "$folder"
"$folder/bin/pip" install --quiet --disable-pip-version-check --requirement "$requirements"
# Copied last: a venv whose making was interrupted is made anew.
cp "$requirements" "$folder/requirements.txt"
