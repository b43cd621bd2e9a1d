"""What the ballot says, in each of its languages: one table, each entry in all of them."""

from collections.abc import Mapping

LANGUAGES: Mapping[str, str] = {"en": "English", "zh": "中文", "es": "Español", "de": "Deutsch"}

_TABLE: Mapping[str, tuple[str, str, str, str]] = {
    "title": ("Which answer is better?", "哪个回答更好？", "¿Qué respuesta es mejor?", "Welche Antwort ist besser?"),
    "title_rate": (
        "How good is the answer?",
        "这个回答有多好？",
        "¿Qué tan buena es la respuesta?",
        "Wie gut ist die Antwort?",
    ),
    "language": ("Language", "语言", "Idioma", "Sprache"),
    "welcome": (
        "You will see requests with answers. Read both before you choose; take your time, and pause when you like.",
        "您将看到一些请求及其回答。请在选择前全部阅读；不必着急，可以随时暂停。",
        "Verá peticiones con respuestas. Léalas antes de elegir; tómese su tiempo y haga pausas cuando quiera.",
        "Sie sehen Anfragen mit Antworten. Lesen Sie alles, bevor Sie wählen; Sie haben Zeit und können jederzeit pausieren.",
    ),
    "privacy": (
        "Nothing is sent anywhere. Your votes stay in this browser until you export them to a file.",
        "不会发送任何数据。您的投票保存在此浏览器中，直到您将其导出为文件。",
        "No se envía nada. Sus votos quedan en este navegador hasta que los exporte a un archivo.",
        "Es wird nichts gesendet. Ihre Stimmen bleiben in diesem Browser, bis Sie sie in eine Datei ausgeben.",
    ),
    "who": ("Who are you?", "您是谁？", "¿Quién es usted?", "Wer sind Sie?"),
    "leave": ("Change voter", "更换投票人", "Cambiar de votante", "Person wechseln"),
    "load": (
        "Go on from a saved file",
        "从保存的文件继续",
        "Continuar desde un archivo guardado",
        "Mit gespeicherter Datei weitermachen",
    ),
    "save": ("Save to a file", "保存为文件", "Guardar en un archivo", "In Datei speichern"),
    "export": ("Export votes", "导出投票", "Exportar votos", "Stimmen ausgeben"),
    "undo": ("Undo", "撤销", "Deshacer", "Zurück"),
    "pause": ("Pause", "暂停", "Pausa", "Pause"),
    "paused": (
        "Paused. Time is not counted. Press P or the button to go on.",
        "已暂停，不计时。按 P 键或按钮继续。",
        "En pausa. El tiempo no cuenta. Pulse P o el botón para seguir.",
        "Pause. Die Zeit zählt nicht. Mit P oder der Schaltfläche geht es weiter.",
    ),
    "count": (
        "{done} of {all} answered",
        "已完成 {done} / {all}",
        "{done} de {all} respondidas",
        "{done} von {all} beantwortet",
    ),
    "prompt": ("Request", "请求", "Petición", "Anfrage"),
    "answer": ("Answer {number}", "回答 {number}", "Respuesta {number}", "Antwort {number}"),
    "question": (
        "Which answer is significantly better?",
        "哪个回答明显更好？",
        "¿Qué respuesta es claramente mejor?",
        "Welche Antwort ist deutlich besser?",
    ),
    "question_rate": (
        "How helpful and accurate is the answer, from {least} to {most}?",
        "该回答的有用性和准确性如何（{least} 到 {most} 分）？",
        "¿Qué tan útil y exacta es la respuesta, de {least} a {most}?",
        "Wie hilfreich und richtig ist die Antwort, von {least} bis {most}?",
    ),
    "first": ("Answer 1", "回答 1", "Respuesta 1", "Antwort 1"),
    "second": ("Answer 2", "回答 2", "Respuesta 2", "Antwort 2"),
    "neither": ("Neither", "都不是", "Ninguna", "Keine von beiden"),
    "more": (
        "Reasons and comment (optional)",
        "理由和评论（可选）",
        "Motivos y comentario (opcional)",
        "Gründe und Kommentar (freiwillig)",
    ),
    "grounds": ("It differs in", "差别在于", "Se distingue en", "Der Unterschied liegt in"),
    "relevance": ("relevance", "相关性", "pertinencia", "Bezug zur Anfrage"),
    "completeness": ("completeness", "完整性", "exhaustividad", "Vollständigkeit"),
    "coherence": ("coherence", "连贯性", "coherencia", "Zusammenhang"),
    "accuracy": ("accuracy", "准确性", "exactitud", "Richtigkeit"),
    "comment": ("Comment", "评论", "Comentario", "Kommentar"),
    "keys": (
        "Keys: {keys} to choose, U to undo, P to pause",
        "按键：{keys} 选择，U 撤销，P 暂停",
        "Teclas: {keys} elegir, U deshacer, P pausa",
        "Tasten: {keys} wählen, U zurück, P Pause",
    ),
    "thanks": ("All answered. Thank you!", "全部完成，谢谢！", "Todo respondido. ¡Gracias!", "Alles beantwortet. Danke!"),
    "finish": (
        "Press “Export votes” and send the file to whoever gave you this page.",
        "请点击“导出投票”，并将文件发给提供此页面的人。",
        "Pulse «Exportar votos» y envíe el archivo a quien le dio esta página.",
        "Wählen Sie „Stimmen ausgeben“ und schicken Sie die Datei an die Person, von der Sie diese Seite haben.",
    ),
    "loaded": (
        "The saved votes are loaded.",
        "已载入保存的投票。",
        "Se cargaron los votos guardados.",
        "Die gespeicherten Stimmen sind geladen.",
    ),
    "other_ballot": (
        "This file belongs to another ballot.",
        "该文件属于另一份选票。",
        "Este archivo es de otra papeleta.",
        "Diese Datei gehört zu einem anderen Stimmzettel.",
    ),
    "unreadable": (
        "This file cannot be read as saved votes, or was changed.",
        "该文件无法作为已保存的投票读取，或已被修改。",
        "Este archivo no se puede leer como votos guardados, o fue modificado.",
        "Diese Datei lässt sich nicht als gespeicherte Stimmen lesen oder wurde verändert.",
    ),
    "not_kept": (
        "This browser keeps nothing: save to a file before you close the page.",
        "此浏览器无法保存数据：关闭页面前请保存为文件。",
        "Este navegador no guarda nada: guarde en un archivo antes de cerrar la página.",
        "Dieser Browser behält nichts: vor dem Schließen in eine Datei speichern.",
    ),
}

WORDS: Mapping[str, Mapping[str, str]] = {
    language: {name: said[place] for name, said in _TABLE.items()} for place, language in enumerate(LANGUAGES)
}
"""By language, what each part of the page says."""
