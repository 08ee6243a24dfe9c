using System.Text.Encodings.Web;
using System.Text.Json;
using System.Text.Json.Serialization.Metadata;

namespace Virtbus.Cli.Text;

/// <summary>How a verb prints: text, or JSON in one line or many.</summary>
/// <param name="IsJson">-j or -p.</param>
/// <param name="IsPretty">-p.</param>
internal sealed record Output(bool IsJson, bool IsPretty)
{
    /// <summary>Prints an answer of the daemon: as it came, or as text.</summary>
    /// <param name="answer">JSON.</param>
    /// <param name="type">The answer's type.</param>
    /// <param name="text">Makes the text.</param>
    public void Print<T>(byte[] answer, JsonTypeInfo<T> type, Action<TextWriter, T> text)
    {
        if (IsJson)
            PrintJson(answer);
        else
            PrintText(writer => text(writer, ControlClient.Read(answer, type)));
    }

    /// <summary>Prints something that the program itself knows.</summary>
    public void Print<T>(T value, JsonTypeInfo<T> type, Action<TextWriter> text)
    {
        if (IsJson)
            PrintJson(JsonSerializer.SerializeToUtf8Bytes(value, type));
        else
            PrintText(text);
    }

    /// <summary>Prints JSON and ends the line.</summary>
    public void PrintJson(ReadOnlyMemory<byte> json)
    {
        using var output = new MemoryStream();
        if (IsPretty)
        {
            using var document = JsonDocument.Parse(json);
            using var writer = new Utf8JsonWriter(output, new JsonWriterOptions { Indented = true, NewLine = "\n", Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping });
            document.WriteTo(writer);
        }
        else
        {
            output.Write(json.Span);
        }
        output.Write("\n"u8);
        StandardOutput.Stream.Write(output.GetBuffer().AsSpan(0, (int)output.Length));
    }

    /// <summary>Prints text in one piece.</summary>
    public static void PrintText(Action<TextWriter> text)
    {
        using var output = StandardOutput.NewWriter();
        text(output);
    }
}
