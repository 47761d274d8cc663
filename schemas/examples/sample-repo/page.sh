#!/bin/sh
# Writes the page to stdout: page.sh TITLE VERSION
# It needs nothing but a shell, for the base may be any image that has one.
set -eu
title=$1 version=$2
printf '%s\n' \
	'<!doctype html>' \
	'<html lang="en">' \
	'<meta charset="utf-8">' \
	"<title>$title</title>" \
	'<link rel="stylesheet" href="style.css">' \
	"<h1>$title</h1>" \
	"<p>Version $version</p>"
