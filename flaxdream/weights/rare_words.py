"""Words that name a subject in DreamBooth: one token, and a rare one.

A token's id is its rank: CLIP's vocabulary was made by merging the most frequent pairs first (Sennrich et al. 2016), so
that the last ids are the rarest. Ruiz et al. (2023), section 3.2, take short words from there: the model knows too
little of them to hold on to it.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from flaxdream.weights.prompt_tokens import WORD_END, Piece, words

RARE = 40_000  # ids from here on; sks has 48136
_C, _V = "[bdfghjklmnprstvwz]", "[aeiou]"
SHAPE = re.compile(f"{_C}{_V}{_C}{_V}?|{_V}{_C}{_V}{_C}")  # nothing that is hard to say
# Words, names and insults among the rare tokens of that shape; people hear them, and the model may know them.
_KNOWN = """
    aber adog ajit akon alek alin alon anew anis arum asad asar asim avel bene bide bite boda bode bolo boni bosa
    buda buka dala dav deja dene deva devo dih dike dito doge dole domo dori dura egan egos elis emil emir emit ewan
    fad fal fara fas faze fema fez fib fide fim fis fob gabi gad gami gare geno gera geri gila gita gog gola goma
    gura guri hag haji hak haka hali hap hawa hele heli hep hime hina hira hobo hok hom hov hula huri ibis imes init
    itel iver jap javi jig joni juju juli kak kaka kani kap karo kiko kobo koko kuro lata laze leno lito lobe
    loma lug maja mako mami masa maw mede mew mez miho miki miro mog mota muh mul mula muna nad nage navi nek neko
    nem nene neva niko nir oled pate pele pelo pesa pika pisa pola pote pusa rame rami reba redo rego remi riba rino
    rona roni rop rune sabi saki sava sela seva sila sof sog sola sono suka suma sume sune suni sura taku tali tama
    tema tita titi toda tomi tope tora ufos vala vane vara vena vide vig vigo viso volo waka weg weta wol zaha zaki
    zeke zola zona
"""
KNOWN = frozenset(_KNOWN.split())


class Verdict(NamedTuple):
    """What there is to say of a subject's name in a prompt."""

    word: str | None
    """The word that names the subject; None if the prompt has none that is rare."""
    pieces: tuple[Piece, ...]
    is_good: bool
    text: str


def proposals(tokenizer: Any, count: int) -> list[str]:
    """Words of 3 or 4 letters that can be spoken and are one token, the rarest first; no common words."""
    vocabulary = tokenizer.get_vocab()
    rare = sorted(((number, token) for token, number in vocabulary.items() if number >= RARE), reverse=True)
    found = (token.removesuffix(WORD_END) for _, token in rare if token.endswith(WORD_END))
    return [word for word in found if SHAPE.fullmatch(word) and word not in KNOWN][:count]


def judged(tokenizer: Any, prompt: str, word: str | None = None) -> Verdict:
    """Whether the prompt's rare word, or `word`, is one token and rare.

    The rare word is a rare single token of letters; else the word that is cut into the most tokens.
    """
    split = words(tokenizer, word or prompt)
    if word is not None:
        return _of_word(word, tuple(piece for pieces in split for piece in pieces))
    named = [pieces for pieces in split if any(piece.text.isalnum() for piece in pieces)]
    rare = [pieces for pieces in named if len(pieces) == 1 and pieces[0].id >= RARE]
    cut = sorted((pieces for pieces in named if len(pieces) > 1), key=len)
    if not (rare or cut):
        rarest = max((pieces[0] for pieces in named), key=lambda piece: piece.id, default=None)
        known = f": even {rarest.text!r} is one that the model knows well" if rarest else ""
        return Verdict(None, (), False, f"the prompt has no rare word{known}")
    pieces = max(rare, key=lambda found: found[0].id) if rare else cut[-1]
    return _of_word("".join(piece.text for piece in pieces), pieces)


def _of_word(word: str, pieces: tuple[Piece, ...]) -> Verdict:
    if len(pieces) != 1:
        split = "|".join(piece.text for piece in pieces)
        return Verdict(
            word, pieces, False, f"{word!r} is {len(pieces)} tokens, {split}, each with a meaning of its own"
        )
    if pieces[0].id < RARE:
        return Verdict(word, pieces, False, f"{word!r} is one token, but a common one (rank {pieces[0].id})")
    return Verdict(word, pieces, True, f"{word!r} is one token, and a rare one (rank {pieces[0].id})")
