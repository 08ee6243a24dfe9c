using System.Text;

namespace Virtbus.Tests.Transports.Nbd;

/// <summary>An answer to an option.</summary>
internal sealed record NbdOptionAnswer(uint Reply, byte[] Data)
{
    internal string Text => Encoding.UTF8.GetString(Data);
}
