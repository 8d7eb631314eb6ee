"""Tokens by the rules of llama2.c's `encode`: one merge at a time, best score first."""

import struct


def vocabulary(content):
    """(text, score) of every token of a vocabulary file."""
    tokens, at = [], 4
    while at < len(content):
        score, length = struct.unpack("<fi", content[at : at + 8])
        tokens.append((content[at + 8 : at + 8 + length], score))
        at += 8 + length
    return tokens


def encode(content, text):
    tokens = vocabulary(content)
    number = {piece: i for i, (piece, _) in enumerate(tokens)}
    ids = [1]
    for character in f" {text}" if text else "":
        raw = character.encode()
        ids += [number[raw]] if raw in number else [byte + 3 for byte in raw]
    while True:
        found = []  # score, place, token
        for i in range(len(ids) - 1):
            merged = number.get(tokens[ids[i]][0] + tokens[ids[i + 1]][0])
            if merged is not None:
                found.append((tokens[merged][1], -i, merged))
        if not found:
            return ids
        _, place, merged = max(found)
        ids[-place : -place + 2] = [merged]
