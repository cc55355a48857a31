# SPDX-License-Identifier: Apache-2.0
"""MLE-SAM (arXiv 2412.04220): a frozen SAM image encoder, one LoRA expert per modality, a router and two heads.

    images ─▶ backbone + experts ─▶ router ─▶ mask decoder ─▶ logits ─┐
                  (frozen)            │                              ├─▶ mask
                                      └────▶ auxiliary head ─▶ logits ┘

The entry point is `mlesam.py`.
"""
