#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Succeeds while the lifecycle state of the node MLESAM_NODE, /mlesam by default, is active.
state=$(ros2 lifecycle get --spin-time 2 "${MLESAM_NODE:-/mlesam}")
echo "$state"
case $state in active*) ;; *) exit 1 ;; esac
