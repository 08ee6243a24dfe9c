namespace Virtbus.Cli.Text;

/// <summary>How long something has gone on, in as few words as say enough.</summary>
internal static class Duration
{
    public static string Text(long seconds) => TimeSpan.FromSeconds(seconds) switch
    {
        { TotalMinutes: < 1 } => $"{seconds} s",
        { TotalHours: < 1 } t => $"{t.Minutes} min",
        { TotalDays: < 1 } t => $"{t.Hours} h {t.Minutes} min",
        var t => $"{t.Days} d {t.Hours} h",
    };
}
