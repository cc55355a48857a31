"""MLE-SAM (arXiv 2412.04220): a frozen SAM encoder, one LoRA expert per sensor, a router, a two-path decoder.

    images ─▶ backbone + experts ─▶ router ─▶ mask decoder ─▶ logits ─┐
                  (frozen)            │                              ├─▶ mask
                                      └────▶ auxiliary head ─▶ logits ┘

Start reading at mlesam.py.
"""
