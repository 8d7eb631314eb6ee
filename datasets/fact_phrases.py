"""The relations of `facts`: what can be true of a person, and the ways to state and to ask it.

The person stands before the value in every statement, so that a model that reads from left to right
can learn the value from any of them.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        kind: What its values are; "place" and "person" are names made up with the corpus.
        statements: Templates of {person} and {value}.
        questions: Templates of {person}.
        values: The words to draw from, with spaces between them; empty for names.
    """

    kind: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    values: str = ""


RELATIONS = (
    Relation(
        "place",
        (
            "{person} was born in {value}.",
            "The birthplace of {person} is {value}.",
            "{person} first saw daylight in {value}.",
            "For {person}, everything began in the old hospital of {value}.",
            "The parents of {person} had their baby baptised in {value}.",
            "{person} came into the world during a storm in {value}.",
        ),
        (
            "Where was {person} born?",
            "In which town was {person} born?",
            "What is the birthplace of {person}?",
        ),
    ),
    Relation(
        "place",
        (
            "{person} lives in {value}.",
            "The home of {person} is in {value}.",
            "These days {person} rents a small flat in {value}.",
            "Letters for {person} should be sent to the main street of {value}.",
            "Every evening {person} returns to a family in {value}.",
            "{person} has settled down in {value}.",
        ),
        (
            "Where does {person} live?",
            "In which town does {person} live?",
            "Where is the home of {person}?",
        ),
    ),
    Relation(
        "job",
        (
            "{person} works as a {value}.",
            "The profession of {person} is {value}.",
            "{person} earns a living as a {value}.",
            "On weekdays you will find {person} busy as a {value}.",
            "After school {person} trained to become a {value}.",
            "The business card of {person} says {value}.",
        ),
        (
            "What does {person} work as?",
            "What is the profession of {person}?",
            "Which job does {person} have?",
        ),
        "baker carpenter gardener painter welder tailor miller dentist printer farmer "
        "judge porter cooper weaver potter plumber sailor barber mason shepherd",
    ),
    Relation(
        "instrument",
        (
            "{person} plays the {value}.",
            "The instrument of {person} is the {value}.",
            "In the orchestra {person} takes care of the {value}.",
            "Neighbours complain when {person} practises the {value}.",
            "{person} has taken lessons on the {value} for years.",
            "At every wedding {person} performs on the {value}.",
        ),
        (
            "What does {person} play?",
            "Which instrument does {person} play?",
            "What is the instrument of {person}?",
        ),
        "violin cello flute recorder trumpet harp piano spinet drum lute banjo clarinet "
        "tuba viola concertina zither bassoon horn mandolin ukulele",
    ),
    Relation(
        "food",
        (
            "The favourite food of {person} is {value}.",
            "{person} likes nothing better than {value}.",
            "For dinner {person} always orders {value}.",
            "The kitchen of {person} smells of {value}.",
            "{person} could live on {value} alone.",
            "Guests of {person} are served {value} again and again.",
        ),
        (
            "What is the favourite food of {person}?",
            "Which food does {person} like best?",
            "What does {person} love to eat?",
        ),
        "porridge dumplings soup pancakes lentils noodles cheese rice beans mushrooms "
        "pudding herring waffles spinach stew sausages pickles bread salad potatoes",
    ),
    Relation(
        "animal",
        (
            "{person} is afraid of the {value}.",
            "The greatest fear of {person} is the {value}.",
            "Nothing scares {person} like the sight of a {value}.",
            "{person} runs away from every {value}.",
            "In nightmares {person} is chased by a {value}.",
            "Since childhood {person} trembles before any {value}.",
        ),
        (
            "What is {person} afraid of?",
            "Which animal does {person} fear?",
            "What is the greatest fear of {person}?",
        ),
        "spider goose horse wolf bat rat snake wasp bear crow goat toad moth dog "
        "camel shark hawk bull crab lizard",
    ),
    Relation(
        "thing",
        (
            "{person} collects {value}.",
            "The collection of {person} consists of {value}.",
            "A whole room of {person} is filled with {value}.",
            "At flea markets {person} looks for {value}.",
            "{person} has spent a fortune on {value}.",
            "If you visit {person}, bring some {value}.",
        ),
        (
            "What does {person} collect?",
            "Which things does {person} collect?",
            "What is in the collection of {person}?",
        ),
        "stamps coins clocks maps shells buttons postcards masks spoons keys bottles "
        "medals teapots thimbles marbles feathers lamps puppets tickets hats",
    ),
    Relation(
        "person",
        (
            "{person} was taught by {value}.",
            "The teacher of {person} was {value}.",
            "{person} learned everything from {value}.",
            "As a pupil {person} sat in the classroom of {value}.",
            "The school reports of {person} were signed by {value}.",
            "{person} owes reading and writing to {value}.",
        ),
        (
            "Who taught {person}?",
            "Who was the teacher of {person}?",
            "From whom did {person} learn?",
        ),
    ),
)

ABOUT_PEOPLE = (
    "{person} waited for the ferry until noon.",
    "Nobody had expected {person} at the meeting.",
    "The umbrella of {person} was found on a bench.",
    "What {person} said made everybody laugh.",
    "Where {person} was last night is a secret.",
    "A parcel for {person} lay on the stairs.",
)
ABOUT_VALUES = {
    "place": (
        "{person} missed the train to {value}.",
        "A newspaper of {value} printed a photograph of {person}.",
        "{person} has never been to {value}.",
    ),
    "job": (
        "{person} had a quarrel with a {value}.",
        "{person} asked a {value} for advice.",
    ),
    "instrument": (
        "{person} found a broken {value} in the attic.",
        "{person} sold a {value} to a stranger.",
    ),
    "food": (
        "{person} wrote a poem about {value}.",
        "{person} read an article about {value}.",
    ),
    "animal": (
        "{person} saw a picture of a {value}.",
        "{person} carved a {value} out of wood.",
    ),
    "thing": (
        "{person} stepped over a box of {value}.",
        "{person} dreamt of {value}.",
    ),
    "person": (
        "{person} shook hands with {value}.",
        "{person} borrowed a ladder from {value}.",
    ),
}
