// JDBC with PostgreSQL's driver: what docs/orms.md shows, and what must hold.
// java -cp postgresql-42.7.8.jar Contacts.java
import java.net.URI;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.sql.*;
import java.util.*;

public class Contacts {
    static final URI DATABASE_URL = URI.create(System.getenv("DATABASE_URL"));
    static final String url = "jdbc:postgresql://127.0.0.1:" + DATABASE_URL.getPort() + DATABASE_URL.getPath();
    static final String password =
        URLDecoder.decode(DATABASE_URL.getRawUserInfo().replaceFirst("[^:]*:", ""), StandardCharsets.UTF_8);

    public static void main(String[] args) throws Exception {
        //#region docs
        Properties login = new Properties();
        login.setProperty("user", "app_user.acme");
        login.setProperty("password", password);

        try (Connection connection = DriverManager.getConnection(url, login);
             PreparedStatement statement = connection.prepareStatement("SELECT id, name FROM contacts ORDER BY id");
             ResultSet row = statement.executeQuery()) {
            while (row.next()) System.out.println(row.getInt("id") + " " + row.getString("name"));
        }
        // 1 Wile E. Coyote
        // 2 Road Runner
        //#endregion

        check("acme", "", "Wile E. Coyote", "Road Runner");
        check("globex", "", "Hank Scorpio", "Frank Grimes", "Mindy Simmons");
        check(System.getenv("ODD_TENANT"), "", "Zoë");
        check("acme", "?currentSchema=public", "Wile E. Coyote", "Road Runner");
        check("acme", "?prepareThreshold=1&ApplicationName=shop", "Wile E. Coyote", "Road Runner");
        check("acme", "?options=-c%20statement_timeout=5s", "Wile E. Coyote", "Road Runner");
        check("acme", "?readOnly=true", "Wile E. Coyote", "Road Runner");

        try (Connection connection = connect("acme", ""); Statement statement = connection.createStatement()) {
            try {
                statement.executeUpdate("INSERT INTO contacts (name, tenant_id) VALUES ('Mallory', 'globex')");
                throw new AssertionError("an INSERT for another tenant succeeded");
            } catch (SQLException error) {
                expect("42501", error.getSQLState());
            }
            statement.setQueryTimeout(1); // sends a CancelRequest
            try {
                statement.execute("SELECT pg_sleep(30)");
                throw new AssertionError("the query was not cancelled");
            } catch (SQLException error) {
                expect("57014", error.getSQLState());
            }
            connection.setAutoCommit(false);
            statement.executeUpdate("INSERT INTO contacts (name) VALUES ('Nobody')");
            connection.rollback();
        }
        check("acme", "", "Wile E. Coyote", "Road Runner");
        try (Connection refused = connect("acme", "?options=-c%20app.current_tenant_id=globex")) {
            throw new AssertionError("a client chose its own tenant");
        } catch (SQLException error) {
            expect("42501", error.getSQLState());
        }
    }

    static Connection connect(String tenant, String parameters) throws SQLException {
        Properties login = new Properties();
        login.setProperty("user", "app_user." + tenant);
        login.setProperty("password", password);
        return DriverManager.getConnection(url + parameters, login);
    }

    static void check(String tenant, String parameters, String... expected) throws SQLException {
        try (Connection connection = connect(tenant, parameters)) {
            // Past prepareThreshold the driver prepares the statement on the server.
            for (int i = 0; i < 8; i++) {
                List<String> names = new ArrayList<>();
                try (PreparedStatement statement =
                         connection.prepareStatement("SELECT name FROM contacts WHERE id > ? ORDER BY id")) {
                    statement.setInt(1, 0);
                    ResultSet row = statement.executeQuery();
                    while (row.next()) names.add(row.getString(1));
                }
                expect(List.of(expected), names);
            }
        }
    }

    static void expect(Object expected, Object actual) {
        if (!expected.equals(actual)) throw new AssertionError("expected " + expected + ", got " + actual);
    }
}
