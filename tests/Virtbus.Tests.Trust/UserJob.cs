using System.Globalization;

namespace Virtbus.Tests.Trust;

/// <summary>What a user is to do. It goes over to the user's process as one line.</summary>
/// <param name="Kind">The kind of device.</param>
/// <param name="Path">The device's socket.</param>
/// <param name="Seed">What the user does follows from it.</param>
/// <param name="Tell">Before which of its operations the user says that it is there; 0 is the connect.</param>
/// <param name="LetsGo">Whether it lets go of the device when it is asked to.</param>
/// <param name="ByMessage">Whether the device reaches the user's memory by messages.</param>
/// <param name="TwinSocket">Whether the device's own requests have a socket of their own.</param>
internal sealed record UserJob(DeviceKind Kind, string Path, int Seed, int Tell, bool LetsGo, bool ByMessage, bool TwinSocket)
{
    public static UserJob Parse(string line)
    {
        var words = line.Split('\t');
        return new UserJob(
            Enum.Parse<DeviceKind>(words[0]),
            words[1],
            int.Parse(words[2], CultureInfo.InvariantCulture),
            int.Parse(words[3], CultureInfo.InvariantCulture),
            bool.Parse(words[4]),
            bool.Parse(words[5]),
            bool.Parse(words[6]));
    }

    public string ToLine() => string.Create(CultureInfo.InvariantCulture, $"{Kind}\t{Path}\t{Seed}\t{Tell}\t{LetsGo}\t{ByMessage}\t{TwinSocket}");
}
