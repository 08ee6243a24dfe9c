namespace Virtbus.Cli.Text;

/// <summary>A text in lines of at most 80 columns, the later ones indented. A word that is longer stands alone.</summary>
internal static class Paragraph
{
    private const int Columns = 80;
    private const string Indent = "  ";

    public static void Write(TextWriter writer, string text)
    {
        var line = "";
        foreach (var word in text.Split(' '))
        {
            if (line.Length > 0 && line.Length + 1 + word.Length > Columns)
            {
                writer.WriteLine(line);
                line = Indent + word;
            }
            else
            {
                line += line.Length == 0 ? word : " " + word;
            }
        }
        writer.WriteLine(line);
    }
}
