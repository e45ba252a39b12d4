"""Names, places and streets that demo people are put together from.

Here live tables alone. Places are real communes with their COG code (which is also the place in a NIR), chosen small
enough that no month ever saw 900 births registered there: see `people`.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class Place(NamedTuple):
    """A commune: its COG code, its name, and a postcode of it."""

    code: str
    name: str
    postcode: str


_FAMILY: Final = """
Martin Bernard Thomas Petit Robert Richard Durand Dubois Moreau Laurent Simon Michel Lefebvre Leroy Roux David
Bertrand Morel Fournier Girard Bonnet Dupont Lambert Fontaine Rousseau Vincent Muller Lefèvre Faure Andre Mercier
Blanc Guérin Boyer Garnier Chevalier François Legrand Gauthier Garcia Perrin Robin Clément Morin Nicolas Henry
Roussel Mathieu Gautier Masson Marchand Duval Denis Dumont Marie Lemaire Noël Meyer Dufour Meunier Brun Blanchard
Giraud Joly Rivière Lucas Brunet Gaillard Barbier Arnaud Martinez Gérard Roche Renard Schmitt Roy Leroux Colin Vidal
Caron Picard Roger Fabre Aubert Lemoine Renaud Dumas Lacroix Olivier Philippe Bourgeois Pierre Benoît Rey Leclerc
Payet Rolland Leclercq Guillaume Lecomte Lopez Jean Dupuy Guillot Hubert Berger Carpentier Sanchez Dupuis Moulin
Louis Deschamps Huet Vasseur Perez Boucher Fleury Royer Klein Jacquet Adam Paris Poirier Marty Aubry Guyot Carré
Charles Renault Charpentier Ménard Maillard Baron Bertin Bailly Hervé Schneider Fernandez Le&Gall Collet Léger
Bouvier Julien Prévost Millet Perrot Daniel Le&Roux Cousin Germain Breton Besson Langlois Rémy Le&Goff Pelletier
Lévêque Perrier Leblanc Barré Lebrun Marchal Weber Mallet Hamon Boulanger Jacob Monnier Michaud Rodriguez Guichard
Gillet Étienne Grondin Poulain Tessier Chevallier Collin Chauvin Da&Silva Bouchet Gay Lemaître Bénard Maréchal
Humbert Reynaud Antoine Hoarau Perret Barthélemy Cordier Pichon Lejeune Gilbert Lamy Delaunay Pasquier Carlier
Laporte Benali Haddad Traoré Diallo Mancini Casanova Santoni Colonna&d’Istria Saint-Martin Dupré-Latour
de&La&Fontaine O’Brien Nguyễn Kaya Öztürk
"""

_GIVEN_M: Final = """
Gabriel Léo Raphaël Louis Arthur Jules Adam Lucas Hugo Noah Paul Nathan Théo Mathis Tom Maël Nolan Antoine
Nicolas Julien Thomas Alexandre Guillaume Kévin Maxime Sébastien Frédéric Christophe Stéphane Laurent Philippe
Pascal Patrick Alain Michel Bernard Daniel Gérard Jacques René André Pierre Jean Marcel Roger Robert Henri
Jean-Pierre Jean-Claude Jean-François Jean-Baptiste Pierre-Yves Mohamed Karim Ousmane Yannick Loïc Gaël Benoît
Jérôme Rémi Cédric François Étienne Noé Timéo Éloi
"""
_GIVEN_F: Final = """
Jade Louise Emma Alice Ambre Lina Rose Chloé Mia Léa Anna Mila Julia Inès Manon Camille Sarah Zoé Lucie Marie
Julie Aurélie Émilie Céline Stéphanie Sandrine Nathalie Isabelle Sylvie Catherine Christine Françoise Martine
Monique Jacqueline Jeanne Denise Madeleine Yvonne Simone Marguerite Anne-Marie Marie-Christine Marie-Thérèse
Anne-Sophie Marie-Odile Fatima Aïcha Aminata Hélène Héloïse Gwenaëlle Solène Maëlys Noémie Élise Agnès Thérèse
Océane Clémence Éléonore Chantal Dominique
"""

BIRTH_PLACES: Final = (
    Place("01053", "Bourg-en-Bresse", "01000"),
    Place("03310", "Vichy", "03200"),
    Place("05061", "Gap", "05000"),
    Place("07019", "Aubenas", "07200"),
    Place("09122", "Foix", "09000"),
    Place("12202", "Rodez", "12000"),
    Place("15014", "Aurillac", "15000"),
    Place("19272", "Tulle", "19000"),
    Place("23096", "Guéret", "23000"),
    Place("24322", "Périgueux", "24000"),
    Place("29232", "Quimper", "29000"),
    Place("32013", "Auch", "32000"),
    Place("39300", "Lons-le-Saunier", "39000"),
    Place("40192", "Mont-de-Marsan", "40000"),
    Place("43157", "Le Puy-en-Velay", "43000"),
    Place("46042", "Cahors", "46000"),
    Place("48095", "Mende", "48000"),
    Place("51215", "Dompremy", "51300"),
    Place("52121", "Chaumont", "52000"),
    Place("55029", "Bar-le-Duc", "55000"),
    Place("58194", "Nevers", "58000"),
    Place("61001", "Alençon", "61000"),
    Place("65440", "Tarbes", "65000"),
    Place("70550", "Vesoul", "70000"),
    Place("71270", "Mâcon", "71000"),
    Place("79191", "Niort", "79000"),
    Place("81004", "Albi", "81000"),
    Place("82121", "Montauban", "82000"),
    Place("85191", "La Roche-sur-Yon", "85000"),
    Place("88160", "Épinal", "88000"),
    Place("89024", "Auxerre", "89000"),
    Place("90010", "Belfort", "90000"),
    Place("2A041", "Bonifacio", "20169"),
    Place("2A247", "Porto-Vecchio", "20137"),
    Place("2B050", "Calvi", "20260"),
    Place("2B096", "Corte", "20250"),
    Place("97105", "Basse-Terre", "97100"),
    Place("97209", "Fort-de-France", "97200"),
    Place("97302", "Cayenne", "97300"),
    Place("97416", "Saint-Pierre", "97410"),
)
"""Where demo people are born and live: mainland, Corsica (2A, 2B), overseas (97)."""

_STREETS: Final = """
rue&de&la&République rue&Pasteur rue&Victor-Hugo avenue&Jean-Jaurès place&de&l’Église rue&des&Écoles
rue&du&Moulin chemin&des&Vignes impasse&des&Lilas boulevard&Gambetta rue&de&la&Gare allée&des&Tilleuls
rue&du&Général-Leclerc cours&Napoléon quai&de&la&Fontaine
"""

FAMILY_NAMES: Final = tuple(name.replace("&", " ") for name in _FAMILY.split())
GIVEN_NAMES_M: Final = tuple(_GIVEN_M.split())
GIVEN_NAMES_F: Final = tuple(_GIVEN_F.split())
STREETS: Final = tuple(street.replace("&", " ") for street in _STREETS.split())
