"""How the projector of the spoken model was made: Whisper's encoder on one side, an aligned decoder on the other.

Both stay as they are. Only the projector between them is trained, on benign speech alone, so that nothing about refusal
is taught: what the model refuses when it hears, it refuses because the decoder was aligned in text.

    sentences   what is said: instructions from a grammar, and runs of words that ask for nothing
    voices      who says it: espeak-ng, many voices and speeds, some of them held out
    features    what the frozen encoder hears, kept on disk
    silence     the vector that the decoder reads past
    spelling    the warm start: CTC against the decoder's own token embeddings, no pass of the decoder
    alignment   the decoder's own behaviour: transcription, and its next words for the same instruction in text
    curve       reading and refusal at the checkpoints along the way
"""
